package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// inspect asks the engine for a container. An engine takes a range of ports such as "8000-8002/tcp" for
// one that a container exposes and shows it like that, but the client reads single ports only and
// fails for the whole container: then it is asked for once more, and read here.
func inspect(ctx context.Context, engine *client.Client, id string) (container.InspectResponse, error) {
	res, err := engine.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err == nil || !strings.Contains(err.Error(), "invalid port") {
		return res.Container, err
	}
	text, err := get(ctx, engine, "/containers/"+url.PathEscape(id)+"/json")
	if err != nil {
		return container.InspectResponse{}, err
	}
	var c container.InspectResponse
	err = json.Unmarshal(singlePorts(text), &c)
	return c, err
}

// get reads an answer of the engine as it is.
func get(ctx context.Context, engine *client.Client, path string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return engine.Dialer()(ctx) },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+client.DummyHost+"/v"+engine.ClientVersion()+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the engine answers %s", answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// singlePorts writes the ranges of an inspection as single ports. Whatever it does not understand it
// leaves as it is, for the client to judge.
func singlePorts(text []byte) []byte {
	type ports = map[string]json.RawMessage
	var found struct {
		Config          struct{ ExposedPorts ports }
		HostConfig      struct{ PortBindings ports }
		NetworkSettings struct{ Ports ports }
	}
	if json.Unmarshal(text, &found) != nil {
		return text
	}
	for _, at := range []struct {
		object, field string
		ports         ports
	}{
		{"Config", "ExposedPorts", found.Config.ExposedPorts},
		{"HostConfig", "PortBindings", found.HostConfig.PortBindings},
		{"NetworkSettings", "Ports", found.NetworkSettings.Ports},
	} {
		if expand(at.ports) {
			text = replaced(text, at.object, at.field, at.ports)
		}
	}
	return text
}

// expand replaces ranges by their ports, and tells whether there were any.
func expand(ports map[string]json.RawMessage) bool {
	changed := false
	for name, value := range ports {
		numbers, protocol, _ := strings.Cut(name, "/")
		first, last, ok := strings.Cut(numbers, "-")
		low, errLow := strconv.ParseUint(first, 10, 16)
		high, errHigh := strconv.ParseUint(last, 10, 16)
		if !ok || errLow != nil || errHigh != nil {
			continue
		}
		changed = true
		delete(ports, name)
		for p := low; p <= high; p++ {
			ports[strconv.FormatUint(p, 10)+"/"+protocol] = value
		}
	}
	return changed
}

// replaced writes a field of an object in text anew.
func replaced(text []byte, object, field string, value any) []byte {
	var whole, part map[string]json.RawMessage
	if json.Unmarshal(text, &whole) != nil || json.Unmarshal(whole[object], &part) != nil {
		return text
	}
	written, err := json.Marshal(value)
	if err != nil {
		return text
	}
	part[field] = written
	if whole[object], err = json.Marshal(part); err != nil {
		return text
	}
	if changed, err := json.Marshal(whole); err == nil {
		return changed
	}
	return text
}
