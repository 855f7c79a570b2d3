package render

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// marker stands in a template's output for the services' texts. NUL cannot come from a value.
const marker = "\x00services\x00"

// serviceDefine is the define that {{services}} means when it names none.
const serviceDefine = "service"

// functions are what templates can call beside Go's own. The comments are the table of docs/template.md:
// how each is called, and what it gives.
func functions(s Settings) template.FuncMap {
	return template.FuncMap{
		// quote TEXT: one word of HAProxy's configuration, in single quotes: nothing in it is expanded. An empty text is none: HAProxy takes an empty word for the end of the line
		"quote": quote,
		// quotefmt TEXT: the same where HAProxy reads a log format (`set-header`, `lf-string`, …): `%` is doubled
		"quotefmt": quoteFormat,
		// regex TEXT: a regular expression for just this text, to be quoted: `quote (print "^" (regex .Path))`
		"regex": regexp.QuoteMeta,
		// name TEXT: a name for HAProxy: the text in lower case; if more than case had to change, letters, digits and hyphens of it, and a hash
		"name": service.DeriveName,
		// comment TEXT: the text, if it stays within its line; else an error
		"comment": clean,
		// mapkey TEXT: the text, if a map file gives it back as the same key; else an error
		"mapkey": mapKey,
		// mapvalue TEXT: the text, if a map file gives it back as the same value; else an error
		"mapvalue": mapValue,
		// default FALLBACK VALUE: the value, or the fallback if it is empty, zero or false
		"default": fallback,
		// duration FALLBACK TEXT: a time such as `1m30s` in HAProxy's words, or the fallback if the text is none above zero
		"duration": orDuration,
		// number LOW HIGH FALLBACK TEXT: the number from LOW to HIGH that the text is, or the fallback if it is none
		"number": orNumber,
		// matches REGEXP TEXT: whether Go's regular expression is found in the text
		"matches": regexp.MatchString,
		// services, services "NAME": the texts per service of the define "service", or of that name, on a line of its own
		"services": servicesMarker,
		// settings: this host's [Settings], wherever the dot is something else
		"settings": func() Settings { return s },
		// join SEP LIST: a list as text, with SEP in between
		"join": func(sep string, list []string) string { return strings.Join(list, sep) },
		// split SEP TEXT: a text as list, cut at each SEP
		"split": func(sep, s string) []string { return strings.Split(s, sep) },
		// lower TEXT: in lower case
		"lower": strings.ToLower,
		// upper TEXT: in upper case
		"upper": strings.ToUpper,
		// replace OLD NEW TEXT: with NEW in place of each OLD
		"replace": func(old, with, s string) string { return strings.ReplaceAll(s, old, with) },
		// contains PART TEXT: whether PART is in the text
		"contains": func(part, s string) bool { return strings.Contains(s, part) },
		// hasPrefix PREFIX TEXT: whether the text begins with PREFIX
		"hasPrefix": func(prefix, s string) bool { return strings.HasPrefix(s, prefix) },
		// hasSuffix SUFFIX TEXT: whether the text ends with SUFFIX
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

// fallback is what a template says in place of nothing.
func fallback(otherwise, v any) any {
	if there, _ := template.IsTrue(v); there {
		return v
	}
	return otherwise
}

// orDuration and orNumber read free text, such as meta. They give a fallback instead of an error,
// because an error of one service's text would keep those of all others from being made.
func orDuration(otherwise, text string) string {
	if d, ok := service.Duration(text); ok && d > 0 {
		return haproxyTime(text)
	}
	return otherwise
}

func orNumber(low, high, otherwise int, text string) int {
	if n, err := strconv.Atoi(text); err == nil && low <= n && n <= high {
		return n
	}
	return otherwise
}
