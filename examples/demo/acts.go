package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// done prints a step that is behind us.
func done(format string, args ...any) { fmt.Printf("  ✓ "+format+"\n", args...) }

// showSpread shows who answers a few requests.
func (d *demo) showSpread(ctx context.Context) error {
	const requests = 30
	fmt.Printf("\n  %d requests to http://%s:%s/ are answered by\n", requests, host, d.http.number)
	count := map[string]int{}
	for range requests {
		who, err := d.ask(ctx)
		if err != nil {
			return err
		}
		count[who]++
	}
	for _, box := range d.boxes {
		fmt.Printf("      %s  %2d  %s\n", box.Short(), count[box.Short()], strings.Repeat("▪", count[box.Short()]))
	}
	fmt.Println()
	return nil
}

// replaceUnderLoad replaces every container while requests of all kinds go on: first the new one,
// then, when it is seen to answer, a plain docker stop for the old one.
func (d *demo) replaceUnderLoad(ctx context.Context) error {
	fmt.Println("  Replacing all three under load: GET and POST, with and without keep-alive")
	traffic := load.Start(ctx, load.Options{Target: d.http.address(), Host: host, Workers: 2, Pause: 5 * time.Millisecond})
	defer traffic.Stop()
	for i, old := range d.boxes {
		box, err := d.startContainer(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		d.boxes[i] = box
		err = d.until(ctx, "container "+box.Short()+" answers", func(context.Context) error {
			now := traffic.Now()
			if now.Servers[box.Short()] == 0 {
				return fmt.Errorf("not yet; the load so far: %s", now)
			}
			return nil
		})
		if err != nil {
			return err
		}
		took := time.Since(began)
		if err := errors.Join(old.Stop(ctx), old.Remove(ctx)); err != nil {
			return err
		}
		fmt.Printf("      %s → %s  answers %d ms after docker start\n", old.Short(), box.Short(), took.Milliseconds())
	}
	report := traffic.Stop()
	if report.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed, 0 were expected: %s", report.Failed, report.Sent, report)
	}
	fmt.Printf("      %d requests sent, %d failed; half took less than %.1f ms, 99 %% less than %.1f ms\n\n", report.Sent, report.Failed,
		milliseconds(report.Percentile(0.5)), milliseconds(report.Percentile(0.99)))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// showServices runs the command that a user would.
func (d *demo) showServices(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "sidekick"), "services", "--admin", d.admin.address())
	cmd.Env = proctest.Environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("sidekick services: %w: %s", err, out)
	}
	fmt.Println("  $ sidekick services")
	for line := range strings.Lines(string(out)) {
		fmt.Print("  " + line)
	}
	fmt.Println()
	return nil
}

func (d *demo) showAddresses() {
	fmt.Println("  It is yours until Ctrl-C:")
	fmt.Printf("      http://%-28s  the containers; or curl -H 'Host: %s' http://%s/\n", host+":"+d.http.number+"/", host, d.http.address())
	fmt.Printf("      http://%-28s  HAProxy's statistics\n", d.stats.address()+"/")
	fmt.Printf("      http://%-28s  the agent: /metrics, /api/v1/services, /api/v1/status\n", d.admin.address()+"/readyz")
	fmt.Printf("      docker run -d -l sidekick.service=whoami -l sidekick.host=%s -l org.sidekick.run=%s %s\n\n", host, run, image)
}

// until repeats a look until it finds no fault, and gives up after a minute, or when the agent ends.
func (d *demo) until(ctx context.Context, what string, look func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-d.agent.Done():
			_, how := d.agent.Ended()
			return fmt.Errorf("the agent ended before this came true: %s (%w)", what, how)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("waited a minute for: %s: %w", what, err)
			}
			return ctx.Err()
		}
	}
}

// ready asks the agent whether a configuration is in force.
func (d *demo) ready(ctx context.Context) error {
	_, err := get(ctx, d.admin.address(), "/readyz", "")
	return err
}

// allAnswer asks through HAProxy until each container was met.
func (d *demo) allAnswer(ctx context.Context) error {
	met := map[string]bool{}
	for range 3 * len(d.boxes) {
		who, err := d.ask(ctx)
		if err != nil {
			return err
		}
		met[who] = true
	}
	for _, box := range d.boxes {
		if !met[box.Short()] {
			return fmt.Errorf("container %s has not answered", box.Short())
		}
	}
	return nil
}

// ask sends a request through HAProxy and returns who answered.
func (d *demo) ask(ctx context.Context) (string, error) {
	header, err := get(ctx, d.http.address(), "/", host)
	return header.Get("X-Whoami"), err
}

// get returns the header of a good answer.
func get(ctx context.Context, address, path, hostHeader string) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Host, req.Close = hostHeader, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("http://%s%s answers %s: %s", address, path, resp.Status, strings.TrimSpace(string(body)))
	}
	return resp.Header, nil
}
