package confd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"
)

// laterFunctions are those that the continued confd (after 0.16) has as well.
func laterFunctions() template.FuncMap {
	return template.FuncMap{
		"default": fallback, "ternary": ternary, "coalesce": coalesce, "empty": empty,
		"toJson": toJSON, "fromJson": fromJSON, "toPrettyJson": toPrettyJSON,
		"indent": indent, "quote": strconv.Quote,
		"nindent":    func(n int, text string) (string, error) { t, err := indent(n, text); return "\n" + t, err },
		"squote":     func(text string) string { return "'" + text + "'" },
		"regexMatch": regexp.MatchString, "regexFind": regexFind, "regexReplaceAll": regexReplaceAll,
		"trimPrefix": strings.TrimPrefix, "repeat": repeat, "nospace": nospace,
		"snakecase": func(text string) string { return strings.ToLower(strings.Join(words(text), "_")) },
		"kebabcase": func(text string) string { return strings.ToLower(strings.Join(words(text), "-")) },
		"camelcase": camelCase,
		"dict":      dict,
		"list":      func(values ...any) []any { return values },
		"hasKey":    func(m map[string]any, key string) bool { _, ok := m[key]; return ok },
		"keys":      func(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) },
		"values":    values,
		"append":    func(list []any, v any) []any { return append(slices.Clip(list), v) },
		"pluck":     pluck,
		"sha256sum": func(text string) string { sum := sha256.Sum256([]byte(text)); return hex.EncodeToString(sum[:]) },
	}
}

// empty tells of any value whether it says nothing: zero, false, no text, no elements.
func empty(v any) bool {
	value := reflect.ValueOf(v)
	switch value.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Array, reflect.Slice, reflect.Map:
		return value.Len() == 0
	case reflect.Struct, reflect.Func, reflect.Chan:
		return false
	default:
		return value.IsZero()
	}
}

func fallback(other, v any) any {
	if empty(v) {
		return other
	}
	return v
}

func ternary(yes, no any, condition bool) any {
	if condition {
		return yes
	}
	return no
}

// coalesce returns the first value that says something.
func coalesce(list ...any) any {
	if i := slices.IndexFunc(list, func(v any) bool { return !empty(v) }); i >= 0 {
		return list[i]
	}
	return nil
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func toPrettyJSON(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b), err
}

func fromJSON(text string) (any, error) {
	var v any
	err := json.Unmarshal([]byte(text), &v)
	return v, err
}

// indent puts n blanks before each line.
func indent(n int, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if n < 0 || n > most/(1+strings.Count(text, "\n")) {
		return "", fmt.Errorf("%d blanks before each line: want 0 to %d in all", n, most)
	}
	blanks := strings.Repeat(" ", n)
	return blanks + strings.ReplaceAll(text, "\n", "\n"+blanks), nil
}

func regexFind(pattern, text string) (string, error) {
	r, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	return r.FindString(text), nil
}

func regexReplaceAll(pattern, text, with string) (string, error) {
	r, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	count := len(r.FindAllStringIndex(text, -1))
	if len(text)+count*len(with)+strings.Count(with, "$")*len(text) > longest { // $0 stands for no more than was found
		return "", errLong
	}
	return r.ReplaceAllString(text, with), nil
}

func repeat(n int, text string) (string, error) {
	if n < 0 || text != "" && n > most/len(text) {
		return "", fmt.Errorf("repeat %d: want 0 or more, and %d bytes at most", n, most)
	}
	return strings.Repeat(text, n), nil
}

func nospace(text string) string { return strings.Join(strings.Fields(text), "") }

// words splits a name at _, - and blanks, and where capitals begin a word: HTTPServer is HTTP and Server.
func words(name string) []string {
	var list []string
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '_' || r == '-' || r == ' ' }) {
		runes, from := []rune(part), 0
		for i := 1; i < len(runes); i++ {
			begins := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if unicode.IsUpper(runes[i]) && (begins || !unicode.IsUpper(runes[i-1])) {
				list, from = append(list, string(runes[from:i])), i
			}
		}
		list = append(list, string(runes[from:]))
	}
	return list
}

func camelCase(name string) string {
	list := words(name)
	for i, word := range list {
		list[i] = strings.ToLower(word)
		if i > 0 {
			_, n := utf8.DecodeRuneInString(word)
			list[i] = strings.ToUpper(word[:n]) + strings.ToLower(word[n:])
		}
	}
	return strings.Join(list, "")
}

// values returns a map's values in the order of its keys.
func values(m map[string]any) []any {
	list := make([]any, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[key])
	}
	return list
}

// pluck returns what these maps have under a key.
func pluck(key string, from ...map[string]any) []any {
	var list []any
	for _, m := range from {
		if v, ok := m[key]; ok {
			list = append(list, v)
		}
	}
	return list
}
