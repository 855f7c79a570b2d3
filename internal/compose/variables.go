package compose

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// deepest is how deep defaults of variables may hold others.
const deepest = 10

// variables puts values in place of $NAME and ${NAME…}, as compose does.
type variables struct {
	lookup func(name string) (string, bool)
	unset  map[string]bool // that were asked for, and are empty
}

// notes tells which variables are empty for want of a value.
func (v *variables) notes() []string {
	var notes []string
	for _, name := range slices.Sorted(maps.Keys(v.unset)) {
		notes = append(notes, "variable "+name+" is not set and counts as empty: export it, or write ${"+name+":-default}")
	}
	return notes
}

// expand returns a value of YAML with all its texts expanded. Keys stay as they are.
func (v *variables) expand(value any) (any, error) {
	switch value := value.(type) {
	case string:
		return v.text(value, 0)
	case []any:
		all := make([]any, len(value))
		for i, item := range value {
			expanded, err := v.expand(item)
			if err != nil {
				return nil, err
			}
			all[i] = expanded
		}
		return all, nil
	case map[string]any:
		all := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			expanded, err := v.expand(value[key])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			all[key] = expanded
		}
		return all, nil
	}
	return value, nil
}

// text expands one text.
func (v *variables) text(text string, depth int) (string, error) {
	if depth > deepest {
		return "", errors.New("variables within variables go too deep")
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		value, behind, err := v.variable(rest, depth)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		text = behind
	}
}

// variable expands what follows a dollar sign, and returns what is behind it.
func (v *variables) variable(text string, depth int) (value, behind string, err error) {
	if strings.HasPrefix(text, "$") {
		return "$", text[1:], nil
	}
	inner, braced := strings.CutPrefix(text, "{")
	end := 0
	for end < len(inner) && isNameByte(inner[end], end) {
		end++
	}
	name, rest := inner[:end], inner[end:]
	switch {
	case name == "":
		return "", "", fmt.Errorf("%.40q is no variable: want $NAME or ${NAME}, and $$ for a dollar sign", "$"+text)
	case !braced:
		return v.plain(name), rest, nil
	}
	closed := closing(rest)
	if closed < 0 {
		return "", "", fmt.Errorf("%.40q has no closing brace", "$"+text)
	}
	value, err = v.chosen(name, rest[:closed], depth)
	return value, rest[closed+1:], err
}

// plain is the value of a variable without a default.
func (v *variables) plain(name string) string {
	value, ok := v.lookup(name)
	if !ok {
		if v.unset == nil {
			v.unset = map[string]bool{}
		}
		v.unset[name] = true
	}
	return value
}

// chosen is the value of a variable with an operator and its argument: a default, a replacement, or
// the demand to be set.
func (v *variables) chosen(name, rest string, depth int) (string, error) {
	if rest == "" {
		return v.plain(name), nil
	}
	value, set := v.lookup(name)
	operator, orEmpty := rest[0], false
	if operator == ':' && len(rest) > 1 {
		operator, orEmpty, rest = rest[1], true, rest[1:]
	}
	set = set && (!orEmpty || value != "")
	argument := rest[1:]
	switch {
	case operator == '-' && set, operator == '?' && set:
		return value, nil
	case operator == '-', operator == '+' && set:
		return v.text(argument, depth+1)
	case operator == '+':
		return "", nil
	case operator == '?':
		return "", fmt.Errorf("variable %s must be set: %s", name, argument)
	}
	return "", fmt.Errorf("%.40q is unknown behind a variable's name: want :- - :+ + :? or ?", rest)
}

// closing finds the brace that closes the one before text.
func closing(text string) int {
	open := 0
	for i := range len(text) {
		switch {
		case text[i] == '{' && i > 0 && text[i-1] == '$':
			open++
		case text[i] == '}' && open == 0:
			return i
		case text[i] == '}':
			open--
		}
	}
	return -1
}

func isNameByte(c byte, at int) bool {
	return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' || at > 0 && '0' <= c && c <= '9'
}
