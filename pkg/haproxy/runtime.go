package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// maxLine is the longest statement that every version of HAProxy answers; longer ones hang 2.6.
	maxLine = 8 << 10
	// answerLimit bounds one exchange of statements and answers.
	answerLimit = 10 * time.Second
	// maxAnswer bounds what is read as an answer.
	maxAnswer = 64 << 20
)

// prompt ends an answer in HAProxy's prompt mode, the only one in which each statement can be told
// its own answer.
const prompt = "\n> "

// runtimeAPI speaks to the worker. Each batch has a connection of its own, for a connection that is
// kept stays with its worker over a reload and keeps that worker alive.
type runtimeAPI struct{ path string }

// dial connects for one exchange, which ends with ctx or after a limit.
func dial(ctx context.Context, path string) (net.Conn, func(), error) {
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it only unblocks the reader
	return conn, func() {
		stop()
		cancel()
		conn.Close() // read to its end or given up
	}, nil
}

// ask sends one statement and returns all that is answered.
func ask(ctx context.Context, path, statement string) (string, error) {
	conn, done, err := dial(ctx, path)
	if err != nil {
		return "", err
	}
	defer done()
	if _, err := io.WriteString(conn, statement+"\n"); err != nil {
		return "", fmt.Errorf("send %q to %s: %w", statement, path, err)
	}
	// The master never closes by itself.
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil { //nolint:forcetypeassert // dialled as unix
		return "", fmt.Errorf("send %q to %s: %w", statement, path, err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("answer to %q from %s: %w", statement, path, err)
	}
	return string(answer), nil
}

// batch sends statements and returns the answer to each. On an error it returns the answers that
// came before it; whether the statement behind them ran is not known then.
func (r runtimeAPI) batch(ctx context.Context, statements []string) ([]string, error) {
	for _, s := range statements {
		if !sendable(s) {
			return nil, fmt.Errorf("statement %.60q is too long or holds more than one", s)
		}
	}
	conn, done, err := dial(ctx, r.path)
	if err != nil {
		return nil, err
	}
	defer done()
	c := conversation{conn: conn}
	if _, err := c.exchange([]string{"prompt"}); err != nil {
		return nil, fmt.Errorf("runtime socket %s: %w", r.path, err)
	}
	var answers []string
	for len(statements) > 0 {
		n := chunk(statements)
		got, err := c.exchange(statements[:n])
		answers = append(answers, got...)
		if err != nil {
			return answers, fmt.Errorf("runtime socket %s: %w", r.path, err)
		}
		statements = statements[n:]
	}
	return answers, nil
}

// payloadMark parts a statement from the lines that are its payload, which an empty one ends.
const payloadMark = " <<\n"

// sendable tells whether HAProxy takes this as one statement, whole.
func sendable(statement string) bool {
	line, payload, with := strings.Cut(statement, payloadMark)
	if len(line) >= maxLine || strings.ContainsAny(line, ";\n\r\x00") {
		return false
	}
	blank := strings.HasPrefix(payload, "\n") || strings.Contains(payload, "\n\n")
	return !with || len(payload) <= maxPayload && !blank && strings.HasSuffix(payload, "\n") && !strings.ContainsAny(payload, "\r\x00")
}

// chunk is how many statements are sent before their answers are read, so that neither side blocks
// the other.
func chunk(statements []string) int {
	size := 0
	for i, s := range statements {
		size += len(s) + 1
		if size > maxLine && i > 0 {
			return i
		}
	}
	return len(statements)
}

// conversation is a connection in prompt mode.
type conversation struct {
	conn net.Conn
	buf  []byte
}

// exchange sends statements and reads as many answers.
func (c *conversation) exchange(statements []string) ([]string, error) {
	if _, err := io.WriteString(c.conn, strings.Join(statements, "\n")+"\n"); err != nil {
		return nil, err
	}
	var answers []string
	for range statements {
		answer, err := c.answer()
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// answer reads up to the next prompt.
func (c *conversation) answer() (string, error) {
	const portion = 4 << 10
	from := 0
	for {
		if i := bytes.Index(c.buf[from:], []byte(prompt)); i >= 0 {
			answer := string(c.buf[:from+i])
			c.buf = c.buf[from+i+len(prompt):]
			return withoutPrompts(answer), nil
		}
		if len(c.buf) > maxAnswer {
			return "", errors.New("an answer without an end")
		}
		from = max(0, len(c.buf)-len(prompt))
		c.buf = slices.Grow(c.buf, portion)
		n, err := c.conn.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
}

// answerNone says that a server is no more.
const answerNone = "No such server."

// withoutPrompts takes away what HAProxy prints for each line of a payload.
func withoutPrompts(answer string) string {
	answer = strings.TrimSpace(answer)
	for answer == "+" || strings.HasPrefix(answer, "+ ") {
		answer = strings.TrimSpace(answer[1:])
	}
	return answer
}

// success are the known good answers to a change. HAProxy has no status codes, so everything else is
// an error.
var success = regexp.MustCompile(`^(?:|New server registered\.|Server deleted\.|Done\.` +
	`|New empty certificate store '[^']*'!|Transaction (?:created|updated) for certificate \S+!|Committing \S+\s+Success!` +
	`|Inserting certificate '[^']*' in crt-list '[^']*'\.+\s+Success!|Entry '[^']*' deleted in crtlist '[^']*'!|Certificate '[^']*' deleted!)$`)

func succeeded(answer string) bool { return success.MatchString(answer) }
