package compose

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// scalar writes a value of YAML as text; nothing for nothing, and for what has parts.
func scalar(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case bool, int, int64, uint64:
		return fmt.Sprint(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// scalarOr is scalar, with what takes the place of nothing.
func scalarOr(value any, otherwise string) string {
	if text := scalar(value); text != "" {
		return text
	}
	return otherwise
}

// number reads a whole number from low to high.
func number(value any, low, high int) (int, error) {
	n, err := strconv.Atoi(scalar(value))
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%.40q is no number from %d to %d", scalar(value), low, high)
	}
	return n, nil
}

// pairs reads names and values: a map, or a list of NAME=VALUE. A name without a value has that of
// lookup, and is left out if there is none; it is empty where lookup is nil.
func pairs(value any, lookup func(string) (string, bool)) (map[string]string, error) {
	all := map[string]string{}
	add := func(name, text string, given bool) {
		if !given && lookup != nil {
			text, given = lookup(name)
		}
		if given || lookup == nil {
			all[name] = text
		}
	}
	switch v := value.(type) {
	case nil:
	case map[string]any:
		return all, pairsOfMap(v, add)
	case []any:
		return all, pairsOfList(v, add)
	default:
		return all, errors.New("want a map, or a list of NAME=VALUE")
	}
	return all, nil
}

func pairsOfMap(v map[string]any, add func(name, text string, given bool)) error {
	for name, text := range v {
		if _, nested := text.(map[string]any); nested {
			return fmt.Errorf("%.40q has a map for its value: write text", name)
		}
		add(name, scalar(text), text != nil)
	}
	return nil
}

func pairsOfList(v []any, add func(name, text string, given bool)) error {
	for _, item := range v {
		name, text, given := strings.Cut(scalar(item), "=")
		if name == "" {
			return errors.New("an entry of the list is not NAME=VALUE")
		}
		add(name, text, given)
	}
	return nil
}
