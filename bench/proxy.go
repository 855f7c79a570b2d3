package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// proxy is a HAProxy with what an agent has between the registry and it, all in this process: the
// catalog, the renderer with the built-in template, and the driver.
type proxy struct {
	size     int // instances in the beginning
	each     int // of which each service has that many
	cfg      haproxy.Config
	process  *process
	front    string
	stats    string
	builder  *service.Builder
	renderer *render.Renderer
	driver   *haproxy.Driver
	files    render.Files
	serial   int
}

// newProxy starts a HAProxy and puts a catalog of that size in force.
func newProxy(ctx context.Context, program string, size, each int) (*proxy, error) {
	dir, err := os.MkdirTemp("", "skb")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	p := &proxy{size: size, each: each, front: addrs[0], stats: addrs[1], builder: service.NewBuilder(prefix)}
	p.cfg = haproxy.Config{
		Bin: program, Path: filepath.Join(dir, "haproxy.cfg"), WorkDir: filepath.Join(dir, "work"),
		MasterSocket: filepath.Join(dir, "m.sock"), RuntimeSocket: filepath.Join(dir, "r.sock"),
	}
	p.renderer, err = render.New("haproxy.cfg", templates.HAProxy, render.Settings{
		Node: "bench-agent", HTTPListen: p.front, Stats: p.stats, RuntimeSocket: p.cfg.RuntimeSocket,
	})
	if err != nil {
		return nil, err
	}
	for n := range size {
		if err := p.put(p.instance(n/each, n)); err != nil {
			return nil, err
		}
	}
	if err := p.start(ctx); err != nil {
		p.close()
		return nil, fmt.Errorf("%d servers: %w", size, err)
	}
	return p, nil
}

// start runs HAProxy and applies the first files.
func (p *proxy) start(ctx context.Context) error {
	if err := haproxy.Prepare(ctx, p.cfg); err != nil {
		return err
	}
	err := p.run(ctx)
	if err != nil {
		return err
	}
	if p.driver, err = haproxy.NewDriver(p.cfg); err != nil {
		return err
	}
	_, err = p.apply(ctx)
	return err
}

// run starts HAProxy with the file that is there.
func (p *proxy) run(ctx context.Context) (err error) {
	args := haproxy.ExecArgs(p.cfg)
	if p.process, err = start(args[0], args[1:]...); err != nil {
		return err
	}
	if err := until(ctx, "haproxy", p.process, func() bool { return worker(ctx, p.cfg.RuntimeSocket) != 0 }); err != nil {
		return err
	}
	return p.settled(ctx)
}

func (p *proxy) close() {
	if p.process != nil {
		p.process.stop()
	}
	os.RemoveAll(filepath.Dir(p.cfg.Path))
}

// instance is the n-th one, of that service.
func (p *proxy) instance(of, n int) *service.Instance {
	return &service.Instance{
		Node: node, ID: fmt.Sprintf("i%d", n), Service: fmt.Sprintf("s%d", of),
		Address: netip.AddrFrom4([4]byte{127, byte(2 + n>>16), byte(n >> 8), byte(n)}), Port: 8000,
		State: service.Ready, Weight: 100, Mode: service.HTTP, Path: "/",
		Hosts: []string{fmt.Sprintf("s%d.bench", of)}, Started: time.Unix(1_700_000_000, 0).UTC(),
	}
}

// fresh is an instance that was never there, of the service in the middle.
func (p *proxy) fresh() *service.Instance {
	p.serial++
	return p.instance(p.middle(), p.size+p.serial)
}

func (p *proxy) middle() int { return p.size / p.each / 2 }

// backend is the name of a service's section.
func backend(of int) string { return fmt.Sprintf("be_s%d", of) }

func (p *proxy) put(i *service.Instance) error {
	value, err := i.Encode()
	if err == nil {
		p.builder.Put(i.Key(prefix), value)
	}
	return err
}

func (p *proxy) drop(i *service.Instance) { p.builder.Delete(i.Key(prefix)) }

// render makes the files of what the catalog holds now.
func (p *proxy) render() (render.Files, error) {
	files, _, err := p.renderer.Render(render.Input{Catalog: p.builder.Catalog(1)})
	return files, err
}

// apply is the way of a change from the catalog to HAProxy's confirmation.
func (p *proxy) apply(ctx context.Context) (haproxy.Result, error) {
	files, err := p.render()
	if err != nil {
		return haproxy.Result{}, err
	}
	p.files = files
	return p.driver.Apply(ctx, files)
}

// change is apply for what must need no reload, with the time that it took.
func (p *proxy) change(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	res, err := p.apply(ctx)
	took := time.Since(began)
	if err == nil && res.How != haproxy.HowRuntime {
		err = fmt.Errorf("the change was made by %q: %s", res.How, res.Reason)
	}
	return took, err
}

// reloaded is what a reload made by hand took.
type reloaded struct {
	check, load time.Duration // by the clock
	cpu         time.Duration // of both
}

func (r reloaded) both() time.Duration { return r.check + r.load }

// reload is HAProxy's own part of a change of the text: the files are written, checked and loaded,
// until the new worker answers.
func (p *proxy) reload(ctx context.Context, files render.Files) (reloaded, error) {
	for _, f := range files {
		path := p.cfg.Path
		if f.Name != "" {
			path = filepath.Join(filepath.Dir(path), f.Name)
		}
		if err := os.WriteFile(path, []byte(f.Text()), 0o600); err != nil {
			return reloaded{}, err
		}
	}
	began := time.Now()
	checked, err := p.check(ctx)
	check := time.Since(began)
	if err != nil {
		return reloaded{}, err
	}
	load, err := p.spent(ctx, func() error { return p.load(ctx) })
	return reloaded{check: check, load: load.clock, cpu: checked + load.cpu}, err
}

// check has HAProxy judge the file, and returns the processor time that this took.
func (p *proxy) check(ctx context.Context) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, p.cfg.Bin, "-c", "-f", p.cfg.Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("haproxy -c: %w: %s", err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// load has the master load the file and waits for the new worker.
func (p *proxy) load(ctx context.Context) error {
	old := worker(ctx, p.cfg.RuntimeSocket)
	var sent time.Time
	return until(ctx, "reload", p.process, func() bool {
		if time.Since(sent) > 3*time.Second { // 2.6 loses one that comes too early
			sent = time.Now()
			_, _ = askMaster(p.cfg.MasterSocket, "reload") // 2.6 does not answer
		}
		now := worker(ctx, p.cfg.RuntimeSocket)
		return now != 0 && now != old
	})
}

// settled waits until the master is done with a reload and the former worker is gone.
func (p *proxy) settled(ctx context.Context) error {
	return until(ctx, "the end of the old worker", p.process, func() bool {
		answer, err := askMaster(p.cfg.MasterSocket, "show proc")
		return err == nil && strings.Count(answer, "worker ") == 1
	})
}
