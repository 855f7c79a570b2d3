// Package enginetest lets the end-to-end tests and the demo make images, networks and containers in
// a real Docker engine, and take all of them away again.
//
// All that is made carries the label [RunLabel] with the name of the run. [Engine.Sweep] removes what
// carries it, whatever the run did before or whoever killed it half-way; so a run also begins with a
// sweep. Nothing is ever pulled: images are built on scratch from a static binary.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// RunLabel marks all that a run makes. It is no label of Sidekick's own grammar, in which unknown
// names are errors.
const RunLabel = "org.sidekick.run"

// Engine is a Docker engine as one run sees it.
type Engine struct {
	api *client.Client
	run string
}

// Open connects to the engine that the usual DOCKER_* variables name, and asks whether it answers.
// run names what this run makes: letters, digits, "-" and "_".
func Open(ctx context.Context, run string) (*Engine, error) {
	return open(ctx, run, client.FromEnv)
}

// OpenAt connects to the engine at an address as in DOCKER_HOST.
func OpenAt(ctx context.Context, host, run string) (*Engine, error) {
	return open(ctx, run, client.WithHost(host))
}

func open(ctx context.Context, run string, where client.Opt) (*Engine, error) {
	api, err := client.New(where)
	if err != nil {
		return nil, fmt.Errorf("docker engine: %w", err)
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, errors.Join(fmt.Errorf("docker engine at %s does not answer: %w", api.DaemonHost(), err), api.Close())
	}
	return &Engine{api: api, run: run}, nil
}

// Close ends the connection and leaves everything standing; call [Engine.Sweep] first.
func (e *Engine) Close() error { return e.api.Close() }

// Child is the same engine for a run of another name, such as one test of many.
func (e *Engine) Child(run string) *Engine { return &Engine{api: e.api, run: run} }

func (e *Engine) labels() map[string]string { return map[string]string{RunLabel: e.run} }

func (e *Engine) mine() client.Filters {
	return make(client.Filters).Add("label", RunLabel+"="+e.run)
}

// BuildImage makes an image that holds nothing but the file at path, which it starts. The file must
// be a statically linked program.
func (e *Engine) BuildImage(ctx context.Context, tag, path string, exposed ...string) error {
	program, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	dockerfile := "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n"
	if len(exposed) > 0 {
		dockerfile += "EXPOSE " + strings.Join(exposed, " ") + "\n"
	}
	buildContext, err := tarOf(map[string][]byte{"Dockerfile": []byte(dockerfile), "app": program})
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	built, err := e.api.ImageBuild(ctx, buildContext, client.ImageBuildOptions{
		Tags: []string{tag}, Remove: true, ForceRemove: true, Labels: e.labels(),
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	defer built.Body.Close()
	if err := buildError(built.Body); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	return nil
}

func tarOf(files map[string][]byte) (io.Reader, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, content := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return &buf, w.Close()
}

// buildError reads the engine's report on a build, in which a failure is one message among others.
func buildError(body io.Reader) error {
	for dec := json.NewDecoder(body); ; {
		var line struct {
			Error string `json:"error"`
		}
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the engine's report: %w", err)
		}
		if line.Error != "" {
			return errors.New(line.Error)
		}
	}
}

// Network makes a bridge network of that name and returns its gateway: the address in it of the
// engine's host.
func (e *Engine) Network(ctx context.Context, name string) (netip.Addr, error) {
	_, err := e.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: e.labels()})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("network %s: %w", name, err)
	}
	made, err := e.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("network %s: %w", name, err)
	}
	for _, config := range made.Network.IPAM.Config {
		if config.Gateway.Is4() {
			return config.Gateway, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %s: it has no gateway", name)
}

// Alone returns an error if containers run with labels of Sidekick that are not this run's: an agent
// under test would register them, too.
func (e *Engine) Alone(ctx context.Context) error {
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var others []string
	for _, c := range list.Items {
		for label := range c.Labels {
			if strings.HasPrefix(label, "sidekick.") && c.Labels[RunLabel] != e.run && len(c.Names) > 0 {
				others = append(others, strings.TrimPrefix(c.Names[0], "/"))
				break
			}
		}
	}
	if len(others) > 0 {
		return fmt.Errorf("containers with labels of Sidekick run on this engine already, and would take part: stop %s", strings.Join(others, ", "))
	}
	return nil
}

// Sweep removes what this run has made: containers, networks and images. What is gone already is no
// error.
func (e *Engine) Sweep(ctx context.Context) error {
	return errors.Join(e.sweepContainers(ctx), e.sweepNetworks(ctx), e.sweepImages(ctx))
}

func (e *Engine) sweepContainers(ctx context.Context) error {
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: e.mine()})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list.Items {
		errs = append(errs, e.remove(ctx, c.ID))
	}
	return errors.Join(errs...)
}

func (e *Engine) sweepNetworks(ctx context.Context) error {
	list, err := e.api.NetworkList(ctx, client.NetworkListOptions{Filters: e.mine()})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	var errs []error
	for _, n := range list.Items {
		_, err := e.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		if err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove network %s: %w", n.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) sweepImages(ctx context.Context) error {
	list, err := e.api.ImageList(ctx, client.ImageListOptions{Filters: e.mine()})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, i := range list.Items {
		_, err := e.api.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true})
		if err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove image %s: %w", i.ID, err))
		}
	}
	return errors.Join(errs...)
}
