package service

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxName is the longest name of a service, node or zone: that of a DNS label.
const maxName = 63

// ValidName tells whether s may name a service, a node or a zone: lower-case letters, digits and
// inner hyphens, at most 63 of them.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLowerAlnum(c) && c != '-' {
			return false
		}
	}
	return true
}

// ValidID tells whether s may be the id of an instance: [A-Za-z0-9._-], 1 to 128 characters.
func ValidID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLowerAlnum(c) && (c < 'A' || c > 'Z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// DeriveName makes a valid name of any text, such as a container's or a host's name. Case is
// folded; if more than case had to change, a hash of the original is added, so that two texts do
// not meet in one name.
func DeriveName(s string) string {
	lower := strings.ToLower(s)
	if ValidName(lower) {
		return lower
	}
	var b strings.Builder
	for i := range len(lower) {
		if c := lower[i]; isLowerAlnum(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('-')
		}
	}
	sum := sha256.Sum256([]byte(s))
	const hashLen = 6
	base := strings.Trim(b.String(), "-")
	base = strings.TrimRight(base[:min(len(base), maxName-1-hashLen)], "-")
	hash := hex.EncodeToString(sum[:])[:hashLen]
	if base == "" {
		return hash
	}
	return base + "-" + hash
}

// Distance counts the bytes to insert, remove or replace to make b of a.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
