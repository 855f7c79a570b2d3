package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// What is drawn from.
const (
	lotServices   = 5
	lotInstances  = 6 // of a service
	firstEndpoint = 9000
	endpoints     = 2 * lotInstances // each instance has two addresses to be at
	takenPort     = 7999             // held by another program
	lotPrefix     = "/sidekick"
)

// lots is what the plan of the rounds knows.
type lots struct {
	addr      netip.Addr
	instances map[string]service.Instance // by id
	options   map[string]map[string]string
	listen    map[string]uint16
	template  string // the last good one
	// foreign says that HAProxy may be of another version than the agent's own in this round. Then only
	// its master judges texts, when they are on disk already: none is drawn that only HAProxy refuses.
	foreign bool
	// tookOver says that a HAProxy took over from another one in this round.
	tookOver bool
	count    int // makes names
}

func newLots(addr string) lots {
	return lots{
		addr: netip.MustParseAddr(addr), instances: map[string]service.Instance{}, options: map[string]map[string]string{},
		listen: map[string]uint16{}, template: templates.HAProxy,
	}
}

func hostOf(name string) string { return name + ".example.test" }

// serves tells whether somebody answers at an instance's port.
func (l *lots) serves(port uint16) bool {
	return port >= firstEndpoint && port < firstEndpoint+endpoints
}

// lot is a kind of step with its share.
type lot struct {
	share int
	draw  func(r *rand.Rand) step
	// external and managed say where it can happen.
	external, managed bool
}

// lots are the kinds of steps.
func (s *soak) lots() []lot {
	return []lot{
		{6, s.drawInstance, true, true},
		{3, s.drawOptions, true, true},
		{2, s.drawServiceGone, true, true},
		{2, s.drawBurst, true, true},
		{1, s.drawEqual, true, true},
		{3, s.drawTemplate, true, true},
		{2, s.drawBrokenTemplate, true, true},
		{2, s.drawWorkerKilled, true, true},
		{1, s.drawMasterKilled, true, true},
		{2, s.drawRestart, true, false},
		{1, s.drawTakeOver, true, false},
		{3, s.drawAgentKilled, true, true},
		{2, s.drawKilledInReload, true, true},
		{3, s.drawSocket, true, true},
		{1, s.drawHeldConnection, true, true},
		{4, s.drawEdit, true, true},
		{2, s.drawEtcd, true, true},
	}
}

// draw draws the steps of a round. The last one is a change, that must not be lost.
func (s *soak) draw(r *rand.Rand) []step {
	s.edited, s.waitForAudit = false, os.Getenv(soakTime) != "" && r.IntN(4) == 0
	s.known.foreign, s.known.tookOver = s.external && r.IntN(3) == 0, false
	all := s.kinds(r)
	var steps []step
	for range 4 + r.IntN(30) {
		one := all[r.IntN(len(all))].draw(r)
		one.alone, one.pause = r.IntN(5) == 0, time.Duration(r.IntN(4)*r.IntN(100))*time.Millisecond
		steps = append(steps, one)
	}
	return append(steps, s.drawInstance(r))
}

// kinds are the kinds of steps of one round, as often as their shares. Each round leaves some out, for
// what one of them mends hides what another one breaks.
func (s *soak) kinds(r *rand.Rand) []lot {
	var all []lot
	for i, l := range s.lots() {
		if possible := s.external && l.external || !s.external && l.managed; possible && (i == 0 || r.IntN(2) == 0) {
			all = append(all, slices.Repeat([]lot{l}, l.share)...)
		}
	}
	return all
}

// put writes to the registry; what it does not take in time is no failure of the plan.
func (s *soak) put(ctx context.Context, ops ...clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := s.client.Txn(ctx).Then(ops...).Commit()
	return err
}

func (s *soak) putOf(i service.Instance) clientv3.Op {
	value, err := i.Encode()
	if err != nil {
		panic(err) // the plan is wrong
	}
	return clientv3.OpPut(i.Key(lotPrefix), string(value))
}

// anyInstance draws how an instance is now, or that it is no more.
func (s *soak) anyInstance(r *rand.Rand) (what string, op clientv3.Op) {
	name, n := fmt.Sprintf("s%d", r.IntN(lotServices)), r.IntN(lotInstances)
	id := fmt.Sprintf("%s-i%d", name, n)
	if _, there := s.known.instances[id]; there && r.IntN(3) == 0 {
		gone := service.Instance{Node: "there", ID: id}
		delete(s.known.instances, id)
		return id + " goes", clientv3.OpDelete(gone.Key(lotPrefix))
	}
	i := s.instance(name, n)
	i.Port += uint16(r.IntN(2) * lotInstances)
	i.Weight = []int{0, 1, 100, 100, 100, 256}[r.IntN(6)]
	i.State = []service.State{service.Ready, service.Ready, service.Ready, service.Draining, service.Unhealthy}[r.IntN(5)]
	s.known.instances[id] = i
	return fmt.Sprintf("%s is %s at %d with weight %d", id, i.State, i.Port, i.Weight), s.putOf(i)
}

func (s *soak) instance(name string, n int) service.Instance {
	return service.Instance{
		Node: "there", ID: fmt.Sprintf("%s-i%d", name, n), Service: name, Address: s.known.addr, Port: uint16(firstEndpoint + n),
		State: service.Ready, Weight: service.DefaultWeight, Mode: service.HTTP, Hosts: []string{hostOf(name)}, Path: "/",
		Options: s.known.options[name], Listen: s.known.listen[name],
	}
}

func (s *soak) drawInstance(r *rand.Rand) step {
	what, op := s.anyInstance(r)
	return step{what: what, do: func(ctx context.Context) error { return s.put(ctx, op) }}
}

// of are the instances of a service, in their order.
func (s *soak) of(name string) []service.Instance {
	var all []service.Instance
	for _, id := range slices.Sorted(maps.Keys(s.known.instances)) {
		if i := s.known.instances[id]; name == "" || i.Service == name {
			all = append(all, i)
		}
	}
	return all
}

// drawOptions gives a whole service other options, which needs a reload.
func (s *soak) drawOptions(r *rand.Rand) step {
	name := fmt.Sprintf("s%d", r.IntN(lotServices))
	s.known.options[name] = map[string]string{
		"balance":        []string{"roundrobin", "leastconn", "random", "source"}[r.IntN(4)],
		"timeout.server": fmt.Sprintf("%ds", 10+r.IntN(20)),
	}
	s.known.listen[name] = 0
	if r.IntN(4) == 0 {
		s.known.listen[name] = uint16(8100 + r.IntN(3))
	}
	var ops []clientv3.Op
	for _, i := range s.of(name) {
		i.Options, i.Listen = s.known.options[name], s.known.listen[name]
		s.known.instances[i.ID] = i
		ops = append(ops, s.putOf(i))
	}
	return step{
		what: fmt.Sprintf("%s has the options %v and the port %d", name, s.known.options[name], s.known.listen[name]),
		do:   func(ctx context.Context) error { return s.put(ctx, ops...) },
	}
}

// drawServiceGone takes all instances of a service away, or gives it some.
func (s *soak) drawServiceGone(r *rand.Rand) step {
	name := fmt.Sprintf("s%d", r.IntN(lotServices))
	all := s.of(name)
	var ops []clientv3.Op
	for _, i := range all {
		delete(s.known.instances, i.ID)
		ops = append(ops, clientv3.OpDelete(i.Key(lotPrefix)))
	}
	what := name + " goes"
	if len(all) == 0 {
		what = name + " is new"
		for n := range 2 {
			i := s.instance(name, n)
			s.known.instances[i.ID] = i
			ops = append(ops, s.putOf(i))
		}
	}
	return step{what: what, do: func(ctx context.Context) error { return s.put(ctx, ops...) }}
}

// drawBurst changes many instances one by one.
func (s *soak) drawBurst(r *rand.Rand) step {
	var ops []clientv3.Op
	for range 10 + r.IntN(20) {
		_, op := s.anyInstance(r)
		ops = append(ops, op)
	}
	return step{what: fmt.Sprintf("a burst of %d changes", len(ops)), do: func(ctx context.Context) error {
		for _, op := range ops {
			if err := s.put(ctx, op); err != nil {
				return err
			}
		}
		return nil
	}}
}

// drawEqual writes what is there.
func (s *soak) drawEqual(*rand.Rand) step {
	var ops []clientv3.Op
	for _, i := range s.of("") {
		ops = append(ops, s.putOf(i))
	}
	return step{what: "everything is written again", do: func(ctx context.Context) error { return s.put(ctx, ops...) }}
}

// drawTemplate changes the template to another good one.
func (s *soak) drawTemplate(r *rand.Rand) step {
	text := replaced(templates.HAProxy, "    # Files named below", fmt.Sprintf("    # template %d\n    # Files named below", r.IntN(5)))
	if r.IntN(2) == 0 {
		text = replaced(text, "timeout client 60s", fmt.Sprintf("timeout client %ds", 50+r.IntN(5)))
	}
	if r.IntN(3) == 0 {
		text = replaced(text, "{{else}}{{.Balance}}{{end}}\n", "{{else}}first{{end}}\n")
	}
	if r.IntN(3) == 0 {
		text = replaced(text, "weight {{.Weight}}\n", "weight {{.Weight}} check inter 500ms\n")
	}
	s.known.template = text
	return s.writeTemplate("another good template", text)
}

// replaced is a text with a part of it replaced that must be there.
func replaced(text, part, by string) string {
	if !strings.Contains(text, part) {
		panic(fmt.Sprintf("the built-in template has no %q: the soak must follow it", part))
	}
	return strings.Replace(text, part, by, 1)
}

// drawBrokenTemplate breaks the template in one of many ways.
func (s *soak) drawBrokenTemplate(r *rand.Rand) step {
	text := s.known.template
	ways := []struct{ what, text string }{
		{"no runtime socket", replaced(text, "    stats socket ", "    #stats socket ")},
		{"a field that is none", replaced(text, "{{quote .Stats}}", "{{quote .Nothing}}")},
		{"no template", replaced(text, "{{- range .Servers}}", "{{- range .Servers")},
		{"nothing", ""},
		{"a word that haproxy does not know", replaced(text, "spread-checks 20", "spread-chucks 20")},
		{"an address that is taken", replaced(text, "bind {{quote .Stats}}\n", fmt.Sprintf("bind {{quote .Stats}}\n    bind %s\n", s.at(takenPort)))},
		{"a map that is nowhere", replaced(text, "map_beg(routes.map)", "map_beg(nowhere.map)")},
		{"half of it", text[:len(text)/2]},
	}
	if s.known.foreign {
		ways = ways[:4]
	}
	way := ways[r.IntN(len(ways))]
	return s.writeTemplate("broken template: "+way.what, way.text)
}

func (s *soak) writeTemplate(what, text string) step {
	return step{what: what, do: func(context.Context) error {
		s.templateLock.Lock()
		defer s.templateLock.Unlock()
		return os.WriteFile(s.path("template"), []byte(text), 0o600) // not atomically, as editors do
	}}
}

// mendTemplate puts the last good template back. Steps at the same time may have left another one.
func (s *soak) mendTemplate() error {
	return os.WriteFile(s.path("template"), []byte(s.known.template), 0o600)
}
