package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

const containerHost = "whoami.bench"

// benchContainers starts containers one by one, and measures the time from the moment that each
// listens, by its own word, to the first answer that it gives through HAProxy.
func benchContainers(ctx context.Context, binary, program, whoami string, count int, bound time.Duration) error {
	b, err := newBed(ctx, binary, program)
	if err != nil {
		return err
	}
	defer b.close()
	engine, err := enginetest.Open(ctx, "bench")
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() { engine.Close() }, func() { _ = engine.Sweep(context.WithoutCancel(ctx)) })
	if err := engine.BuildImage(ctx, "sidekick-bench/whoami", whoami, "8000/tcp"); err != nil {
		return err
	}
	if _, err := engine.Network(ctx, "sidekick-bench"); err != nil {
		return err
	}
	if err := b.fill(ctx, 100); err != nil {
		return err
	}
	if _, err := b.startAgent(ctx, ""); err != nil {
		return err
	}
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

// oneContainer starts a container, waits until it answers through HAProxy, and removes it again.
func (b *bed) oneContainer(ctx context.Context, engine *enginetest.Engine) (time.Duration, error) {
	container, err := engine.Start(ctx, enginetest.Spec{
		Image: "sidekick-bench/whoami", Network: "sidekick-bench", Env: map[string]string{"GRACE": "0"},
		Labels: map[string]string{"sidekick.service": "whoami", "sidekick.host": containerHost},
	})
	if err != nil {
		return 0, err
	}
	defer container.Remove(context.WithoutCancel(ctx)) //nolint:errcheck // swept at the end
	var answered time.Time
	var since int64
	err = until(ctx, "container "+container.Short(), b.agent, func() bool {
		name, listening := whoAnswers(b.agentFront)
		answered, since = time.Now(), listening
		return name == container.Short()
	})
	return answered.Sub(time.Unix(0, since)), err
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
