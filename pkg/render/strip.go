package render

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// anySlash is a regular expression for what routing takes for a slash of a path.
const anySlash = `([/\\]|%2[fF]|%5[cC])`

// spellings is a regular expression for a path prefix and the slash or the end behind it, however a client
// writes them: routing takes a character and its escape for the same, and slashes in a row for one.
func spellings(prefix string) string {
	plain, err := url.PathUnescape(prefix)
	if err != nil {
		plain = prefix // which was validated when it was decoded
	}
	var b strings.Builder
	b.WriteString("^")
	for _, c := range []byte(plain) {
		if c == '/' {
			b.WriteString(anySlash + "+")
			continue
		}
		escape := fmt.Sprintf("%%%02X", c)
		for _, digit := range "ABCDEF" {
			escape = strings.ReplaceAll(escape, string(digit), fmt.Sprintf("[%c%c]", digit, digit+'a'-'A'))
		}
		if strings.IndexByte(unescaped, c) < 0 {
			b.WriteString(escape)
			continue
		}
		fmt.Fprintf(&b, "(%s|%s)", regexp.QuoteMeta(string(c)), escape)
	}
	b.WriteString("(" + anySlash + "|$)")
	return b.String()
}

// unescaped are the characters that clients may leave as they are in a path.
const unescaped = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@"
