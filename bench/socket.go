package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	prompt = "\n> "
	// portion is how much is sent before the answers are read, as the driver does.
	portion = 8 << 10
)

// say sends lines to a worker on a connection of their own in prompt mode, and returns the answers:
// the least that anybody can do who wants to know the answer to each line.
func say(ctx context.Context, socket string, lines ...string) ([]string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	c := conversation{conn: conn}
	if err := c.exchange("prompt"); err != nil {
		return nil, err
	}
	for len(lines) > 0 {
		n, size := 1, len(lines[0])
		for n < len(lines) && size+len(lines[n]) < portion {
			size, n = size+len(lines[n])+1, n+1
		}
		if err := c.exchange(lines[:n]...); err != nil {
			return nil, err
		}
		lines = lines[n:]
	}
	return c.answers[1:], nil
}

// conversation is a connection in prompt mode.
type conversation struct {
	conn    net.Conn
	buf     []byte
	answers []string
}

// exchange sends lines and reads as many answers.
func (c *conversation) exchange(lines ...string) error {
	if _, err := io.WriteString(c.conn, strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	part := make([]byte, 64<<10)
	for range lines {
		i := bytes.Index(c.buf, []byte(prompt))
		for ; i < 0; i = bytes.Index(c.buf, []byte(prompt)) {
			n, err := c.conn.Read(part)
			if err != nil {
				return err
			}
			c.buf = append(c.buf, part[:n]...)
		}
		c.answers = append(c.answers, strings.TrimSpace(string(c.buf[:i])))
		c.buf = c.buf[i+len(prompt):]
	}
	return nil
}

// must is say for commands that have to succeed.
func must(ctx context.Context, socket string, lines ...string) error {
	answers, err := say(ctx, socket, lines...)
	if err != nil {
		return err
	}
	for i, answer := range answers {
		a := strings.TrimLeft(answer, "+ \r\n") // HAProxy's prompts for a payload
		switch {
		case a == "", a == "New server registered.", a == "Server deleted.", strings.HasSuffix(a, "Success!"), strings.HasPrefix(a, "Transaction "):
		default:
			return fmt.Errorf("haproxy answers %q to %.80q", answer, lines[i])
		}
	}
	return nil
}

// askMaster sends one line to a master, which does not end a connection by itself.
func askMaster(socket, line string) (string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(conn, line)
	_ = conn.(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// worker is the process id of the worker that answers, 0 if none does.
func worker(ctx context.Context, socket string) int {
	answers, err := say(ctx, socket, "show info")
	if err != nil {
		return 0
	}
	for row := range strings.Lines(answers[0]) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(row), "Pid: "); ok {
			pid, _ := strconv.Atoi(value)
			return pid
		}
	}
	return 0
}

// version is HAProxy's, such as "2.6.12-1".
func version(program string) (string, error) {
	out, err := exec.Command(program, "-v").Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) < 3 {
		return "", fmt.Errorf("%s -v: %q, %w", program, out, err)
	}
	return words[2], nil
}
