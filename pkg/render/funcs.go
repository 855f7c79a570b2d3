package render

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
)

// marker stands in a template's output for the services' texts. NUL cannot come from a value.
const marker = "\x00services\x00"

// serviceDefine is the define that {{services}} means when it names none.
const serviceDefine = "service"

// functions are what templates can call beside Go's own.
func functions(s Settings) template.FuncMap {
	return template.FuncMap{
		"services":  servicesMarker,
		"settings":  func() Settings { return s },
		"quote":     quote,
		"quotefmt":  quoteFormat,
		"mapkey":    mapKey,
		"mapvalue":  mapValue,
		"comment":   clean,
		"join":      func(sep string, list []string) string { return strings.Join(list, sep) },
		"split":     func(sep, s string) []string { return strings.Split(s, sep) },
		"lower":     strings.ToLower,
		"upper":     strings.ToUpper,
		"replace":   func(old, with, s string) string { return strings.ReplaceAll(s, old, with) },
		"contains":  func(part, s string) bool { return strings.Contains(s, part) },
		"hasPrefix": func(prefix, s string) bool { return strings.HasPrefix(s, prefix) },
		"hasSuffix": func(suffix, s string) bool { return strings.HasSuffix(s, suffix) },
	}
}

// servicesMarker marks the place of a text per service, made by the template of that name or by
// "service".
func servicesMarker(name ...string) (string, error) {
	switch len(name) {
	case 0:
		return marker + serviceDefine + "\x00", nil
	case 1:
		return marker + name[0] + "\x00", nil
	}
	return "", errors.New("services takes at most one template's name")
}

// clean returns s if it can stand within a line. Validation has refused what is not, so an error
// here is a bug or a value of the operator's own.
func clean(s string) (string, error) {
	if strings.ContainsFunc(s, isControl) {
		return "", fmt.Errorf("%.40q has control characters", s)
	}
	return s, nil
}

func isControl(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
}

// quote makes one word of HAProxy's configuration out of any text. Within single quotes HAProxy
// expands nothing, neither variables nor escapes.
func quote(v any) (string, error) {
	s, err := clean(fmt.Sprint(v))
	if err != nil {
		return "", err
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'", nil
}

// quoteFormat is quote for places where HAProxy reads a log format, as in set-header: a percent
// sign would begin an expression there.
func quoteFormat(v any) (string, error) {
	return quote(strings.ReplaceAll(fmt.Sprint(v), "%", "%%"))
}

// mapKey lets only text pass that is read back from a map file as the same key.
func mapKey(s string) (string, error) {
	if s == "" || s[0] == '#' || strings.ContainsAny(s, " \t") {
		return "", fmt.Errorf("%.40q cannot be a map's key: it is empty, begins with # or has blanks", s)
	}
	return clean(s)
}

// mapValue lets only text pass that is read back from a map file as the same value.
func mapValue(s string) (string, error) {
	if s == "" || strings.Trim(s, " \t") != s {
		return "", fmt.Errorf("%.40q cannot be a map's value: it is empty or has blanks at an end", s)
	}
	return clean(s)
}
