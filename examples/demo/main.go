// Command demo shows the main job of Sidekick on one machine: containers start and traffic reaches
// them, all of them are replaced one by one under load, and no request is lost. `make demo` builds
// what it needs and runs it.
//
// It uses bin/sidekick as a user would, and Docker through its API; it needs no image from anywhere.
// Whatever happens, it removes all that it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

const (
	run   = "demo" // the run's name: what carries it as a label is removed at the end, and before the start
	name  = "sidekick-demo"
	image = "sidekick-demo/whoami"
	host  = "whoami.localhost"
)

func main() {
	d := demo{
		http:  port("HTTP_PORT", 8080),
		admin: port("ADMIN_PORT", 7070),
		stats: port("STATS_PORT", 8405),
	}
	flag.BoolVar(&d.once, "once", false, "end when all was shown, instead of staying up")
	flag.StringVar(&d.bin, "bin", "bin", "directory of the programs sidekick and whoami")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := d.run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted && d.shown:
		return
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is what the acts have in common.
type demo struct {
	http, admin, stats setting
	once               bool
	bin                string

	dir    string
	engine *enginetest.Engine
	agent  *proctest.Process
	boxes  []*enginetest.Container
	shown  bool // all was shown
}

// run plays all acts, and removes everything at the end.
func (d *demo) run(ctx context.Context) (err error) {
	fmt.Printf("\n  Sidekick: containers come and go, no request is lost\n\n")
	if err := d.preflight(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(context.WithoutCancel(ctx))) }()
	for _, act := range []func(context.Context) error{
		d.startAgent, d.startContainers, d.showSpread, d.replaceUnderLoad, d.showServices,
	} {
		if err := act(ctx); err != nil {
			return d.explained(err)
		}
	}
	d.shown = true
	if d.once {
		return nil
	}
	d.showAddresses()
	select {
	case <-ctx.Done():
		return nil
	case <-d.agent.Done():
		return d.explained(errors.New("the agent has ended by itself"))
	}
}

// explained adds what the agent said last to an error.
func (d *demo) explained(err error) error {
	if d.agent == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w\n\nthe agent's last words:\n%s", err, d.agent.Tail(25))
}

// startAgent starts Sidekick as a user would on a single host: the registry inside, HAProxy as its
// child.
func (d *demo) startAgent(ctx context.Context) error {
	socket := func(file string) string { return filepath.Join(d.dir, file) }
	agent, err := proctest.Start("agent", socket("agent.log"), filepath.Join(d.bin, "sidekick"), "run",
		"--registry", "embedded", "--advertise", "127.0.0.1", "--node", "demo", "--state-dir", socket("state"),
		"--haproxy", "managed", "--haproxy-config", socket("haproxy.cfg"),
		"--haproxy-master-socket", socket("master.sock"), "--haproxy-runtime-socket", socket("haproxy.sock"),
		"--http-listen", d.http.address(), "--stats-listen", d.stats.address(), "--admin", d.admin.address())
	if err != nil {
		return err
	}
	d.agent = agent
	if err := d.until(ctx, "the agent is ready", d.ready); err != nil {
		return err
	}
	done("agent runs: an etcd inside it, HAProxy as its child")
	return nil
}

// startContainers builds the application's image and starts three of it.
func (d *demo) startContainers(ctx context.Context) error {
	if err := d.engine.BuildImage(ctx, image, filepath.Join(d.bin, "whoami"), "8000"); err != nil {
		return err
	}
	if _, err := d.engine.Network(ctx, name); err != nil {
		return err
	}
	for range 3 {
		box, err := d.startContainer(ctx)
		if err != nil {
			return err
		}
		d.boxes = append(d.boxes, box)
	}
	if err := d.until(ctx, "all three containers answer through HAProxy", d.allAnswer); err != nil {
		return err
	}
	done("three containers run, labelled sidekick.host=%s; no port is published", host)
	return nil
}

func (d *demo) startContainer(ctx context.Context) (*enginetest.Container, error) {
	return d.engine.Start(ctx, enginetest.Spec{
		Image: image, Network: name,
		Labels: map[string]string{"sidekick.service": "whoami", "sidekick.host": host},
	})
}

// cleanUp removes all that was made; ctx must not be the one whose end has ended the demo.
func (d *demo) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	swept := make(chan error)
	go func() { swept <- d.engine.Sweep(ctx) }()
	var err error
	if d.agent != nil {
		err = d.agent.End(20 * time.Second)
	}
	err = errors.Join(err, <-swept, d.engine.Close(), os.RemoveAll(d.dir))
	if err == nil {
		done("containers, network, image and processes are removed")
		fmt.Println()
	}
	return err
}
