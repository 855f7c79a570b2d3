package service

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The checks in this file are the grammars of labels and options. Each error is what the label's
// value should be, written to follow its name and value.

const (
	maxText     = 1024 // bytes of a free text
	maxHosts    = 64
	maxHostName = 253
	maxPath     = 512
	maxSplit    = 16
	maxMeta     = 256             // bytes of a tag, or of a key or value of meta
	maxDuration = 480 * time.Hour // below the 24.8 days that HAProxy's timers can hold
)

func checkName(text string) error {
	if !ValidName(text) {
		return fmt.Errorf("want lower-case letters, digits and inner hyphens, at most %d", maxName)
	}
	return nil
}

// checkRange wants a plain decimal number without sign, blanks and leading zeros.
func checkRange(low, high int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high || strconv.Itoa(n) != text {
			return fmt.Errorf("want a number from %d to %d", low, high)
		}
		return nil
	}
}

func checkPort(text string) error { return checkRange(1, 65535)(text) }

func oneOf(words ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("want %s", strings.Join(words, " or "))
		}
		return nil
	}
}

func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("want true or false")
}

func checkBool(text string) error {
	_, err := parseBool(text)
	return err
}

// splitList takes a comma list apart; blanks around the commas do not count.
func splitList(text string) []string {
	items := strings.Split(text, ",")
	for i := range items {
		items[i] = strings.Trim(items[i], " ")
	}
	return items
}

// splitHosts gives the host names of a list as they are compared: in lower case, each once.
func splitHosts(text string) []string {
	var hosts []string
	for _, h := range splitList(strings.ToLower(text)) {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func checkHosts(text string) error {
	hosts := splitList(text)
	if len(hosts) > maxHosts {
		return fmt.Errorf("want at most %d host names, not %d", maxHosts, len(hosts))
	}
	for _, h := range hosts {
		// Only ASCII letters have another case here: what ToLower would make of others is not for
		// us to guess.
		if err := validHost(lowerASCII(h)); err != nil {
			return err
		}
	}
	return nil
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// validHost checks a host name in lower case; only its first label may be "*".
func validHost(h string) error {
	name := strings.TrimPrefix(h, "*.")
	bad := len(name) > maxHostName
	for part := range strings.SplitSeq(name, ".") {
		bad = bad || !ValidName(part)
	}
	if bad {
		return fmt.Errorf("%.40q is no host name: want letters, digits, hyphens and dots such as shop.example.com or *.example.com (no port; other alphabets as xn--…; all hosts: sidekick.default=true)", h)
	}
	return nil
}

// validPath checks a path prefix: segments that browsers send as they are, none of them empty, "."
// or "..".
func validPath(p string) error {
	rest, ok := strings.CutPrefix(p, "/")
	bad := !ok || len(p) > maxPath || !isPath(p)
	for segment := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), "/") {
		bad = bad || segment == "" && rest != "" || !isSegment(segment)
	}
	if bad {
		return fmt.Errorf("%.40q is no path prefix: want /segment/segment of letters, digits and ._~+-, or of %%XX for what is text, at most %d bytes", p, maxPath)
	}
	return nil
}

// isSegment tells whether the text that a segment stands for is one within a path for whoever reads it.
func isSegment(s string) bool {
	text, err := url.PathUnescape(s)
	return err == nil && text != "." && text != ".." && !strings.ContainsAny(text, `/\;`) && printable(text, maxPath)
}

// trimPath is the path without the slash at its end, which means nothing.
func trimPath(p string) string {
	if t := strings.TrimRight(p, "/"); t != "" {
		return t
	}
	return "/"
}

// isPath tells whether s has only bytes that need no quoting in a URL's path and in HAProxy's maps,
// and whole %XX.
func isPath(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return false
			}
		case !isAlnum(c) && !strings.ContainsRune("/._~+-", rune(c)):
			return false
		}
	}
	return true
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

func isAlnum(c byte) bool { return isLowerAlnum(c) || 'A' <= c && c <= 'Z' }

// isWord tells whether s is one or more of [A-Za-z0-9._-].
func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

func checkTags(text string) error { return validTags(splitList(text)) }

func checkMetaKey(key string) error {
	if key == "" || !printable(key, maxMeta) {
		return fmt.Errorf("want a key of 1 to %d bytes without control characters after the last dot", maxMeta)
	}
	return nil
}

func checkMetaText(text string) error {
	if !printable(text, maxMeta) {
		return fmt.Errorf("want at most %d bytes of text without control characters", maxMeta)
	}
	return nil
}

func checkText(text string) error {
	if !printable(text, maxText) {
		return fmt.Errorf("want at most %d bytes of text without control characters", maxText)
	}
	return nil
}

// checkNetwork takes the names that Docker gives to networks.
func checkNetwork(text string) error {
	if !isWord(text) || !isAlnum(text[0]) || len(text) > maxOptionName {
		return errors.New("want the name of a Docker network ([A-Za-z0-9][A-Za-z0-9._-]*)")
	}
	return nil
}

// checkFileName takes names of files that are neither hidden nor elsewhere.
func checkFileName(text string) error {
	if !isWord(text) || !isAlnum(text[0]) || len(text) > maxOptionName {
		return errors.New("want the name of a file without directories ([A-Za-z0-9][A-Za-z0-9._-]*)")
	}
	return nil
}

func checkCookie(text string) error {
	if !isWord(text) || text[0] == '-' || len(text) > maxName {
		return fmt.Errorf("want a cookie's name of letters, digits and ._-, at most %d, not beginning with -", maxName)
	}
	return nil
}

// checkHeaderName refuses the headers that frame messages: a proxy that changes them can be made
// to see other requests than the server behind it.
func checkHeaderName(name string) error {
	if !isWord(name) || len(name) > maxName || strings.Contains(name, ".") {
		return fmt.Errorf("want a header's name of letters, digits, _ and - after the last dot, at most %d", maxName)
	}
	switch strings.ToLower(name) {
	case "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade":
		return errors.New("that header belongs to the connection and cannot be set: remove the label")
	}
	return nil
}

// checkRequestHeader refuses to delete what no request can be without.
func checkRequestHeader(name, text string) error {
	if text == "" && strings.EqualFold(name, "host") {
		return errors.New("want a host name: a request without a host is no request")
	}
	return nil
}

// sameHeader finds another option for the header that an option is for: case is no difference.
func sameHeader(options map[string]string, name string) (twin string) {
	for other := range options {
		if other != name && strings.HasPrefix(name, "header.") && strings.EqualFold(other, name) {
			return other
		}
	}
	return ""
}

// checkDuration wants a duration that is some time.
func checkDuration(text string) error {
	if d, ok := Duration(text); !ok || d == 0 {
		return errors.New("want a duration such as 500ms, 5s or 1m30s, in whole milliseconds, at most 480h")
	}
	return nil
}

// checkDurationOrZero also takes none at all.
func checkDurationOrZero(text string) error {
	if _, ok := Duration(text); !ok {
		return errors.New("want a duration such as 0s, 5s or 1m30s, in whole milliseconds, at most 480h")
	}
	return nil
}

// Duration reads a label's time: what time.ParseDuration reads, without a sign, as exact and as long as
// HAProxy's timers can be.
func Duration(text string) (time.Duration, bool) {
	const longest = 20
	d, err := time.ParseDuration(text)
	fine := err == nil && '0' <= text[0] && text[0] <= '9' && len(text) <= longest &&
		d <= maxDuration && d%time.Millisecond == 0
	return d, fine
}

// checkCheck takes the kinds of check; the path of an http one may have a query.
func checkCheck(text string) error {
	path, ok := strings.CutPrefix(text, "http:")
	if ok && strings.HasPrefix(path, "/") && len(path) <= maxPath && isPath(strings.NewReplacer("?", "/", "=", "/", "&", "/").Replace(path)) {
		return nil
	}
	if text != "docker" && text != "tcp" && text != "none" {
		return errors.New("want docker, tcp, none or http:/path")
	}
	return nil
}

// checkBalance takes the algorithms under which servers can come and go at run time.
func checkBalance(text string) error {
	name, arg := text, ""
	if open := strings.IndexByte(text, '('); open >= 0 && strings.HasSuffix(text, ")") {
		name, arg = text[:open]+"()", text[open+1:len(text)-1]
	} else if word, rest, ok := strings.Cut(text, " "); ok {
		name, arg = word+" ", rest
	}
	fine := false
	switch name {
	case "roundrobin", "leastconn", "first", "random", "source", "uri":
		fine = true
	case "random()":
		fine = checkRange(1, 32)(arg) == nil
	case "hdr()", "url_param ":
		fine = isWord(arg) && len(arg) <= maxName
	case "uri ":
		fine = arg == "whole" || arg == "path-only"
	}
	if !fine {
		return errors.New("want roundrobin, leastconn, first, random, random(N), source, uri, url_param NAME or hdr(NAME)")
	}
	return nil
}

// checkSplit takes "NAME:WEIGHT,…".
func checkSplit(text string) error {
	seen := map[string]bool{}
	for _, item := range splitList(text) {
		name, weight, _ := strings.Cut(item, ":")
		if !ValidName(name) || checkRange(0, 256)(weight) != nil || seen[name] {
			return errors.New("want SERVICE:WEIGHT,SERVICE:WEIGHT,… with weights from 0 to 256, each service once")
		}
		seen[name] = true
	}
	if len(seen) > maxSplit {
		return fmt.Errorf("want at most %d services", maxSplit)
	}
	return nil
}
