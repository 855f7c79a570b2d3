package embedded

import (
	"bytes"
	"io"
	"strings"
)

// crashSieve passes lines on until one by which Go begins to tell of a crash. It keeps that one, and
// holds the rest back: pages of goroutines help nobody who only has a bad disk.
type crashSieve struct {
	out     io.Writer
	partial []byte
	first   string
}

// Write implements io.Writer.
func (s *crashSieve) Write(b []byte) (int, error) {
	s.partial = append(s.partial, b...)
	for {
		end := bytes.IndexByte(s.partial, '\n')
		if end < 0 {
			return len(b), nil
		}
		line := s.partial[:end+1]
		if s.first == "" {
			s.first = crashLine(string(line))
		}
		if s.first == "" {
			_, _ = s.out.Write(line) // a closed log is no reason to end the server
		}
		s.partial = s.partial[end+1:]
	}
}

// crashLine returns a line that begins a crash, and nothing of another.
func crashLine(line string) string {
	for _, begin := range []string{"panic: ", "fatal error: ", "unexpected fault address ", "SIGBUS", "SIGSEGV"} {
		if strings.HasPrefix(line, begin) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
