package register

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode"
)

// longestReason is in bytes.
const longestReason = 300

// plain makes a reason fit for logs and terminals: parts of it may come from a container.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // also what orders text anew, and what is no UTF-8 at all
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > longestReason {
		text = strings.ToValidUTF8(text[:longestReason-len("…")], "") + "…"
	}
	return text
}

// cause says in a few words why a connection failed, or otherwise when that is not a matter of the
// connection. Errors of the network name the local port, which differs each time; a cause does not,
// so that one that lasts is told once.
func cause(err error, otherwise string) string {
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	case errors.As(err, &op) && op.Err != nil:
		return op.Err.Error()
	}
	return otherwise
}

// causeWord is the word by which an error of a registry says why it cannot be used, or "other". One that
// lasts is logged once, however many attempts fail for it.
func causeWord(err error) string {
	var known interface{ Cause() string }
	if errors.As(err, &known) {
		return known.Cause()
	}
	return "other"
}
