package confd

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/kelseyhightower/memkv"
)

const (
	// most bounds what one call of seq or repeat makes: numbers come from the registry.
	most = 1 << 20
	// longest is the size of a text, in bytes, which values of the registry could multiply.
	longest = 64 << 20
)

// errLong is for a text that would be longer.
var errLong = fmt.Errorf("a text of more than %d bytes: it has at most that", longest)

// functions are those of confd that depend on their arguments alone.
func functions() template.FuncMap {
	return template.FuncMap{
		"base": path.Base, "dir": path.Dir,
		"split": strings.Split, "join": join, "replace": replace, "contains": strings.Contains,
		"toUpper": strings.ToUpper, "toLower": strings.ToLower, "trimSuffix": strings.TrimSuffix,
		"json": object, "jsonArray": array, "map": dict,
		"base64Encode": encode64, "base64Decode": decode64,
		"parseBool": strconv.ParseBool, "atoi": strconv.Atoi, "seq": seq,
		"add":     func(a, b int) int { return a + b },
		"sub":     func(a, b int) int { return a - b },
		"mul":     func(a, b int) int { return a * b },
		"div":     divide,
		"mod":     modulo,
		"reverse": reverse, "sortByLength": sortByLength, "sortKVByLength": sortKVByLength,
		"fileExists": fileExists, "hostname": os.Hostname,
	}
}

// keyFunctions are those that look for one key.
func keyFunctions(store *memkv.Store) template.FuncMap {
	return template.FuncMap{
		"exists": func(key string) bool { return store.Exists(plainKey(key)) },
		"get":    func(key string) (memkv.KVPair, error) { return store.Get(plainKey(key)) },
		"getv":   func(key string, other ...string) (string, error) { return store.GetValue(plainKey(key), other...) },
	}
}

// plainKey is a key as the store has it: confd's own documents write getv "/services/data/".
func plainKey(key string) string { return cmp.Or(strings.TrimSuffix(key, "/"), key) }

func object(text string) (map[string]any, error) {
	var v map[string]any
	err := json.Unmarshal([]byte(text), &v)
	return v, err
}

func array(text string) ([]any, error) {
	var v []any
	err := json.Unmarshal([]byte(text), &v)
	return v, err
}

// dict makes a map of keys and values that take turns.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("%d arguments: want keys and values in turn", len(pairs))
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		key, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("%v: a map's keys are strings", pairs[i])
		}
		m[key] = pairs[i+1]
	}
	return m, nil
}

func join(list []string, between string) (string, error) {
	size := len(list) * len(between)
	for _, text := range list {
		size += len(text)
	}
	if size > longest {
		return "", errLong
	}
	return strings.Join(list, between), nil
}

func replace(text, old, with string, n int) (string, error) {
	count := strings.Count(text, old)
	if n >= 0 {
		count = min(n, count)
	}
	if len(text)+count*len(with) > longest {
		return "", errLong
	}
	return strings.Replace(text, old, with, n), nil
}

func encode64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func decode64(text string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	return string(b), err
}

// seq counts from first to last.
func seq(first, last int) ([]int, error) {
	if last < first {
		return nil, nil
	}
	if n := uint(last) - uint(first); n >= most {
		return nil, fmt.Errorf("seq %d %d: more than %d numbers", first, last, most)
	}
	list := make([]int, 0, last-first+1)
	for i := first; len(list) < cap(list); i++ {
		list = append(list, i)
	}
	return list, nil
}

var errZero = errors.New("division by zero")

func divide(a, b int) (int, error) {
	if b == 0 {
		return 0, errZero
	}
	return a / b, nil
}

func modulo(a, b int) (int, error) {
	if b == 0 {
		return 0, errZero
	}
	return a % b, nil
}

// reverse turns a list of texts or of keys round; anything else stays as it is.
func reverse(list any) any {
	switch list := list.(type) {
	case []string:
		list = slices.Clone(list)
		slices.Reverse(list)
		return list
	case []memkv.KVPair:
		list = slices.Clone(list)
		slices.Reverse(list)
		return list
	case memkv.KVPairs: // what gets returns
		list = slices.Clone(list)
		slices.Reverse(list)
		return list
	}
	return list
}

// sortByLength puts shorter texts first, and leaves equally long ones in their order.
func sortByLength(list []string) []string {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b string) int { return len(a) - len(b) })
	return list
}

func sortKVByLength(list []memkv.KVPair) []memkv.KVPair {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b memkv.KVPair) int { return len(a.Key) - len(b.Key) })
	return list
}

// fileExists is true as well for what is there and cannot be looked at.
func fileExists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, os.ErrNotExist)
}
