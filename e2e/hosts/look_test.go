package hosts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/client"
)

// servers is a set of servers: "web h1:8001".
type servers map[string]bool

// add adds one by its service and address.
func (c *cluster) add(all servers, service, addr, port string) {
	for _, h := range c.hosts {
		if addr == h.Addr.String() {
			addr = h.Name
		}
	}
	all[service+" "+addr+":"+port] = true
}

func (s servers) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// runs is what really runs, by what the engines say, of hosts that are not away.
func (c *cluster) runs(away ...*host) (servers, error) {
	all := servers{}
	for _, h := range c.others(away...) {
		list, err := h.engine.ContainerList(c.ctx, client.ContainerListOptions{})
		if err != nil {
			return nil, fmt.Errorf("containers of %s: %w", h.Name, err)
		}
		for _, box := range list.Items {
			for _, port := range box.Ports {
				if port.PublicPort != 0 {
					c.add(all, box.Labels["sidekick.service"], port.IP.String(), strconv.Itoa(int(port.PublicPort)))
				}
			}
		}
	}
	return all, nil
}

// routes is the servers that the host's HAProxy sends requests to.
func (h *host) routes() (servers, error) {
	conn, err := net.DialTimeout("unix", h.runtimeSocket(), time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	io.WriteString(conn, "show servers state\n")
	all, columns := servers{}, []string(nil)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if names, ok := strings.CutPrefix(lines.Text(), "# "); ok {
			columns = strings.Fields(names)
		}
		row := map[string]string{}
		for i, value := range strings.Fields(lines.Text()) {
			if i < len(columns) {
				row[columns[i]] = value
			}
		}
		if row["srv_op_state"] == "2" && row["srv_admin_state"] == "0" {
			h.add(all, strings.TrimPrefix(row["be_name"], "be_"), row["srv_addr"], row["srv_port"])
		}
	}
	if columns == nil {
		return nil, errors.Join(errors.New("HAProxy lists no servers"), lines.Err())
	}
	return all, lines.Err()
}

// ask asks the host's agent, from within the host.
func (h *host) ask(path string, answer any) error {
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
	defer cancel()
	agent := http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:7070"+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := agent.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s: %s %s (%w)", path, h.Name, resp.Status, text, err)
	}
	return json.Unmarshal(text, answer)
}

// lists is the servers that the host's agent says are routed to, and all that it lists.
func (h *host) lists() (routed, listed servers, err error) {
	var services []struct {
		Name      string
		Instances []struct {
			Address string
			Port    int
			Routed  bool
		}
	}
	if err := h.ask("/api/v1/services", &services); err != nil {
		return nil, nil, err
	}
	routed, listed = servers{}, servers{}
	for _, s := range services {
		for _, i := range s.Instances {
			h.add(listed, s.Name, i.Address, strconv.Itoa(i.Port))
			if i.Routed {
				h.add(routed, s.Name, i.Address, strconv.Itoa(i.Port))
			}
		}
	}
	return routed, listed, nil
}

// status is what an agent says of itself.
type status struct {
	InStep bool `json:"in_step"`
	Stages []struct {
		Stage string
		OK    bool
		Error string
	}
}

// isRight finds the first thing on the host that is not as it should be.
func (h *host) isRight(want servers) error {
	got, err := h.routes()
	if err != nil {
		return fmt.Errorf("HAProxy of %s: %w", h.Name, err)
	}
	if diff := cmp.Diff(want.sorted(), got.sorted()); diff != "" {
		return fmt.Errorf("HAProxy of %s has other servers than those that run (-run +routed):\n%s", h.Name, diff)
	}
	if got, _, err = h.lists(); err != nil {
		return err
	}
	if diff := cmp.Diff(want.sorted(), got.sorted()); diff != "" {
		return fmt.Errorf("the agent of %s lists other servers than those that run (-run +listed):\n%s", h.Name, diff)
	}
	var says status
	if err := h.ask("/api/v1/status", &says); err != nil {
		return err
	}
	if !says.InStep {
		return fmt.Errorf("the agent of %s is not in step: %+v", h.Name, says.Stages)
	}
	return nil
}

// untilRight waits until every proxy has exactly the servers that really run, and every agent says so;
// hosts that are away apart.
func (c *cluster) untilRight(away ...*host) {
	c.Helper()
	c.until("every proxy has the servers that run", func() error {
		want, err := c.runs(away...)
		if err != nil {
			return err
		}
		for _, h := range c.others(away...) {
			if err := h.isRight(want); err != nil {
				return err
			}
		}
		return nil
	})
}

// untilOutOfStep waits until the host's agent says that it has lost the registry. P3.
func (h *host) untilOutOfStep() {
	h.Helper()
	h.until("the agent of "+h.Name+" says that it is cut off from the registry", func() error {
		var says status
		if err := h.ask("/api/v1/status", &says); err != nil || !says.InStep {
			return err
		}
		return errors.New("it says that it is in step")
	})
}
