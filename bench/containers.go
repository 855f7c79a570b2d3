package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

const containerHost = "whoami.bench"

// benchContainers starts containers one by one, and measures the time from the moment that each
// listens, by its own word, to the first answer that it gives through HAProxy.
func benchContainers(ctx context.Context, binary, program, whoami string, count int, bound time.Duration) error {
	b, engine, err := newHost(ctx, binary, program, whoami)
	if err != nil {
		return err
	}
	defer b.close()
	var took []time.Duration
	for range count {
		t, err := b.oneContainer(ctx, engine)
		if err != nil {
			return err
		}
		took = append(took, t)
	}
	fmt.Printf("\n%d containers, one after the other, of a known service\n", count)
	row("container listening → first request answered, p50", quantile(took[1:], 0.5), bound, "by hand: put, watch, one command")
	row("container listening → first request answered, p95", quantile(took[1:], 0.95), bound, "by hand, p50")
	return nil
}

// newHost is a bed with 100 instances and an agent that watches the machine's engine.
func newHost(ctx context.Context, binary, program, whoami string) (*bed, *enginetest.Engine, error) {
	b, err := newBed(ctx, binary, program)
	if err != nil {
		return nil, nil, err
	}
	engine, err := b.withEngine(ctx, whoami)
	if err != nil {
		b.close()
		return nil, nil, err
	}
	return b, engine, nil
}

func (b *bed) withEngine(ctx context.Context, whoami string) (*enginetest.Engine, error) {
	engine, err := enginetest.Open(ctx, "bench")
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, func() { engine.Close() }, func() { _ = engine.Sweep(context.WithoutCancel(ctx)) })
	if err := engine.BuildImage(ctx, "sidekick-bench/whoami", whoami, "8000/tcp"); err != nil {
		return nil, err
	}
	if _, err := engine.Network(ctx, "sidekick-bench"); err != nil {
		return nil, err
	}
	if err := b.fill(ctx, 100); err != nil {
		return nil, err
	}
	_, err = b.startAgent(ctx, "")
	return engine, err
}

// benchStops sends containers that answer their stop signal, and measures the time from the engine's
// event, by its own clock, until HAProxy has taken the server out.
func benchStops(ctx context.Context, binary, program, whoami string, count int) error {
	b, engine, err := newHost(ctx, binary, program, whoami)
	if err != nil {
		return err
	}
	defer b.close()
	var took []time.Duration
	for range count {
		t, err := b.oneStop(ctx, engine)
		if err != nil {
			return err
		}
		took = append(took, t)
	}
	fmt.Printf("\n%d containers that are told to stop, one after the other\n", count)
	fmt.Printf("  %-48s p50 %.2f ms, p95 %.2f ms, p99 %.2f ms, at most %.2f ms\n", "kill event → server disabled in HAProxy",
		ms(quantile(took, 0.5)), ms(quantile(took, 0.95)), ms(quantile(took, 0.99)), ms(quantile(took, 1)))
	return nil
}

// oneStop starts a container, waits until it answers, and tells it to stop.
func (b *bed) oneStop(ctx context.Context, engine *enginetest.Engine) (time.Duration, error) {
	container, err := startOne(ctx, engine, "5s")
	if err != nil {
		return 0, err
	}
	defer container.Remove(context.WithoutCancel(ctx)) //nolint:errcheck // swept at the end
	if _, _, err := b.untilAnswered(ctx, container); err != nil {
		return 0, err
	}
	if err := container.Kill(ctx, "TERM"); err != nil {
		return 0, err
	}
	var out time.Time
	err = until(ctx, "stop of "+container.Short(), b.agent, func() bool {
		disabled := b.disabled(ctx, container)
		out = time.Now()
		return disabled
	})
	if err != nil {
		return 0, err
	}
	killed, err := container.Killed(ctx)
	return out.Sub(killed), err
}

// disabled asks HAProxy whether a container's server gets no requests.
func (b *bed) disabled(ctx context.Context, c *enginetest.Container) bool {
	answers, err := say(ctx, b.runtimeSocket, "show servers state be_whoami")
	if err != nil {
		return false
	}
	for line := range strings.Lines(answers[0]) {
		if words := strings.Fields(line); len(words) > 6 && strings.Contains(words[3], "-"+c.Short()[:8]+"-") {
			return words[6] != "0"
		}
	}
	return true // gone already
}

// startOne starts a container.
func startOne(ctx context.Context, engine *enginetest.Engine, grace string) (*enginetest.Container, error) {
	return engine.Start(ctx, enginetest.Spec{
		Image: "sidekick-bench/whoami", Network: "sidekick-bench", Env: map[string]string{"GRACE": grace},
		Labels: map[string]string{"sidekick.service": "whoami", "sidekick.host": containerHost},
	})
}

// untilAnswered waits until a container answers through HAProxy, and returns when it did and since
// when it listens, by its own word.
func (b *bed) untilAnswered(ctx context.Context, c *enginetest.Container) (answered, listening time.Time, err error) {
	err = until(ctx, "container "+c.Short(), b.agent, func() bool {
		name, since := whoAnswers(b.agentFront)
		answered, listening = time.Now(), time.Unix(0, since)
		return name == c.Short()
	})
	return answered, listening, err
}

// oneContainer starts a container, waits until it answers through HAProxy, and removes it again.
func (b *bed) oneContainer(ctx context.Context, engine *enginetest.Engine) (time.Duration, error) {
	container, err := startOne(ctx, engine, "0")
	if err != nil {
		return 0, err
	}
	defer container.Remove(context.WithoutCancel(ctx)) //nolint:errcheck // swept at the end
	answered, listening, err := b.untilAnswered(ctx, container)
	return answered.Sub(listening), err
}

// whoAnswers asks the front end once and returns the answering container and since when it listens.
func whoAnswers(front string) (name string, since int64) {
	conn, err := net.DialTimeout("tcp", front, time.Second)
	if err != nil {
		return "", 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", containerHost)
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", 0
	}
	defer reply.Body.Close()
	since, _ = strconv.ParseInt(reply.Header.Get("X-Whoami-Since"), 10, 64)
	return reply.Header.Get("X-Whoami"), since
}

// besides returns the path of a program that is built beside another.
func besides(binary, name string) string { return filepath.Join(filepath.Dir(binary), name) }
