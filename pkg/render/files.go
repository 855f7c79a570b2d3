package render

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Files is everything that HAProxy reads, as text: the configuration first, then the files it
// names (maps). It is immutable.
type Files []File

// File is one text as a list of blocks.
type File struct {
	// Name is the file's name in the directory of the configuration; "" is the configuration itself.
	Name   string
	Blocks []Block
}

// Block is a run of whole lines of a file, such as one service's backend. Blocks with equal
// hashes have equal texts, so a reader need not look into a block that it knows. [NewBlock] makes it; it is
// a reference, for each change makes a new list of all blocks.
type Block struct{ *run }

// run is what a block says.
type run struct {
	Name    string // for people: "service web"
	Service string // whose text it is; empty for what is of no service alone
	Text    string
	Hash    [sha256.Size]byte
}

// NewBlock returns a block of that text.
func NewBlock(name, text string) Block {
	return Block{&run{Name: name, Text: text, Hash: sha256.Sum256([]byte(text))}}
}

// Equal tells whether two blocks have the same text.
func (b Block) Equal(other Block) bool { return b == other || b.Hash == other.Hash }

// lines counts the lines of a block.
func (b Block) lines() int { return strings.Count(b.Text, "\n") }

// Text is the file as a whole.
func (f File) Text() string {
	if len(f.Blocks) == 1 {
		return f.Blocks[0].Text
	}
	size := 0
	for _, block := range f.Blocks {
		size += len(block.Text)
	}
	var b strings.Builder
	b.Grow(size)
	for _, block := range f.Blocks {
		b.WriteString(block.Text)
	}
	return b.String()
}

// What a text may have that is for nobody but HAProxy: a user's password or its hash, and a private key,
// even if its end is missing.
var (
	userHash   = regexp.MustCompile(`(?m)^(\s*user\s.*\s(?:insecure-)?password\s+)(\S+)`)
	privateKey = regexp.MustCompile(`(?s)-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
)

// Secret tells whether the file has what is for nobody but HAProxy: private keys and hashes of passwords.
func (f File) Secret() bool {
	return slices.ContainsFunc(f.Blocks, func(b Block) bool {
		return strings.Contains(b.Text, "PRIVATE KEY-----") || strings.Contains(b.Text, "password") && userHash.MatchString(b.Text)
	})
}

// Shown is the file as people may see it: in the place of a secret stands by what it can be told from
// another one.
func (f File) Shown() string {
	if !f.Secret() {
		return f.Text()
	}
	text := privateKey.ReplaceAllStringFunc(f.Text(), func(key string) string {
		return fmt.Sprintf("(a private key, %.4x)", sha256.Sum256([]byte(key)))
	})
	return userHash.ReplaceAllStringFunc(text, func(line string) string {
		part := userHash.FindStringSubmatch(line)
		return fmt.Sprintf("%s(secret, %.4x)", part[1], sha256.Sum256([]byte(part[2])))
	})
}

// WriteTo writes the file as a whole to w, many blocks at a time.
func (f File) WriteTo(w io.Writer) (int64, error) {
	const portion = 32 << 10
	out := bufio.NewWriterSize(w, portion)
	var n int64
	for _, block := range f.Blocks {
		m, err := out.WriteString(block.Text)
		n += int64(m)
		if err != nil {
			break // Flush tells of it
		}
	}
	err := out.Flush()
	return n - int64(out.Buffered()), err
}

// Equal tells whether two sets have the same texts in the same blocks.
func (f Files) Equal(other Files) bool {
	return slices.EqualFunc(f, other, func(a, b File) bool {
		return a.Name == b.Name && slices.EqualFunc(a.Blocks, b.Blocks, Block.Equal)
	})
}

// Hash tells two sets of files apart without reading them: equal hashes, equal texts in equal
// blocks.
func (f Files) Hash() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range f {
		io.WriteString(h, file.Name+"\x00")
		for _, block := range file.Blocks {
			h.Write(block.Hash[:])
		}
		h.Write([]byte{0})
	}
	return [sha256.Size]byte(h.Sum(nil))
}
