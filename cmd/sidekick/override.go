package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	defaultDrain = 30 * time.Second // the longest time for sessions where sidekick.drain says nothing
	defaultApply = 30 * time.Second // for agents to apply what has no sessions to wait for
	leastWait    = 5 * time.Second  // for agents to apply what has sessions that need not be waited for
)

// override is one of the commands that say something of instances, over what their agents say.
type override struct {
	*settings
	name    string // of the command
	edit    func(old, said *service.Override) *service.Override
	done    string // what is so after it, in words
	ends    bool   // with --wait it waits until the last session has ended
	lasts   time.Duration
	wait    bool
	timeout time.Duration
	target  service.Target
	weight  *int              // of the weight command, nil to take it back
	written *service.Override // what the override is now, nil for none
}

func overrideCommands() []*cobra.Command {
	return []*cobra.Command{
		(&override{name: "drain", edit: stateEdit(service.Drain), done: "drained", ends: true}).command(
			"No new clients for instances; those that a cookie leads there may finish"),
		(&override{name: "maint", edit: stateEdit(service.Maint), done: "in maintenance", ends: true}).command(
			"No new requests at all for instances; those in flight end"),
		(&override{name: "undrain", edit: withoutState, done: "its drain or maintenance is taken back"}).command(
			"Takes drain or maint back, and for one instance also that it was told to stop"),
		(&override{name: "weight", done: "its weight is taken back"}).command(
			"Another share of the requests, 0 to 256; without a number the containers' own again"),
	}
}

// stateEdit sets a state, and leaves a weight.
func stateEdit(state service.OverrideState) func(old, said *service.Override) *service.Override {
	return func(old, said *service.Override) *service.Override {
		said.State = state
		if old != nil {
			said.Weight = old.Weight
		}
		return said
	}
}

// withoutState takes a state back, and leaves a weight.
func withoutState(old, _ *service.Override) *service.Override {
	if old == nil || old.Weight == nil {
		return nil
	}
	rest := *old
	rest.State = ""
	return &rest
}

// withWeight sets a weight, or takes it back, and leaves a state.
func (o *override) withWeight(old, said *service.Override) *service.Override {
	if o.weight == nil {
		if old == nil || old.State == "" {
			return nil
		}
		rest := *old
		rest.Weight = nil
		return &rest
	}
	said.Weight = o.weight
	if old != nil {
		said.State = old.State
	}
	return said
}

func (o *override) command(short string) *cobra.Command {
	o.settings = newSettings()
	use := o.name + " SERVICE[/NODE[/ID]]"
	if o.name == "weight" {
		use, o.edit = use+" [N]", o.withWeight
	}
	cmd := &cobra.Command{
		Use: use, Short: short,
		Long: short + ".\nEvery proxy follows. A narrower override wins over a wider one: ID over NODE over SERVICE.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.load(environ()); err != nil {
				return err
			}
			if err := o.read(cmd, args); err != nil {
				return usageError{err}
			}
			if err := o.becomeAgent(false); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	f := cmd.Flags()
	if o.name != "undrain" {
		f.DurationVar(&o.lasts, "for", 0, "after which it ends by itself, such as 10m; 0 is never")
	}
	f.BoolVar(&o.wait, "wait", false, "until every agent has applied it, and for drain and maint until the last session has ended")
	f.DurationVar(&o.timeout, "timeout", 0, "how long to wait at most; 0 is the service's sidekick.drain, or 30s")
	o.offer(cmd, []string{"node", "state-dir", "admin", "user"}, registrySettings)
	return cmd
}

// read takes the command's arguments.
func (o *override) read(cmd *cobra.Command, args []string) error {
	most := 1
	if o.name == "weight" {
		most = 2
	}
	if len(args) < 1 || len(args) > most {
		return fmt.Errorf("%s takes %s, got %d arguments", cmd.CommandPath(), strings.TrimPrefix(cmd.Use, o.name+" "), len(args))
	}
	if o.lasts != 0 && o.lasts < time.Second || o.timeout < 0 {
		return fmt.Errorf("--for %s, --timeout %s: give at least 1s, or 0", o.lasts, o.timeout)
	}
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 || n > 256 {
			return fmt.Errorf("weight %q: give a number from 0 to 256", args[1])
		}
		o.weight = &n
	}
	if o.name == "weight" && o.weight == nil && o.lasts != 0 {
		return errors.New("--for is for a weight that is given: without a number the command takes one back")
	}
	var err error
	o.target, err = service.ParseTarget(args[0])
	return err
}

func (o *override) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	client, err := o.openRegistry(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	catalog, err := o.readFrom(ctx, client, registryPatience, func(*service.Catalog) bool { return true })
	if err != nil {
		return err
	}
	if catalog, err = o.knowing(ctx, catalog); err != nil {
		return err
	}
	board := &etcd.Board{Client: client, Prefix: o.prefix}
	revision, old, err := board.Change(ctx, o.target, o.change)
	if err != nil {
		return err
	}
	o.tell(cmd, catalog, old)
	asker := o.newAsker(cmd, client)
	if o.name == "undrain" {
		if err := o.undrainStopped(cmd, asker, catalog, revision); err != nil {
			return err
		}
	}
	if !o.wait {
		return nil
	}
	return o.await(cmd, asker, catalog, revision)
}

// knowing is the catalog that has the target: the registry's, or that of this host's agent, which goes on routing to
// what the registry has lost.
func (o *override) knowing(ctx context.Context, registered *service.Catalog) (*service.Catalog, error) {
	unknown := findTarget(registered, o.target)
	if unknown == nil {
		return registered, nil
	}
	if o.admin == off {
		return nil, unknown
	}
	routed, err := o.readCatalog(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("%w; this host's agent, which may know what the registry has lost, does not answer: give its --admin (%w)", unknown, err)
	}
	return routed, findTarget(routed, o.target)
}

// change is the override that is to be, given the one that is.
func (o *override) change(old *service.Override) (*service.Override, error) {
	said := &service.Override{Target: o.target, By: o.by()}
	if o.lasts > 0 {
		said.Until = time.Now().Add(o.lasts).UTC().Truncate(time.Second).Add(time.Second)
	}
	o.written = o.edit(old, said)
	if o.written != said || old == nil || old.Until.Equal(said.Until) {
		return o.written, nil
	}
	kept, undo := said.Weight != nil, "weight"
	if o.name == "weight" {
		kept, undo = said.State != "", "undrain"
	}
	if kept {
		return nil, fmt.Errorf("%s has another override already, which ends %s, and both would end together: take that back first (sidekick %s %s), or say this of a wider or narrower part",
			o.target, endOf(old), undo, o.target)
	}
	return o.written, nil
}

// endOf says when an override ends.
func endOf(o *service.Override) string {
	if o.Until.IsZero() {
		return "never"
	}
	return "at " + o.Until.Format(time.RFC3339)
}

// by names whoever runs this command.
func (s *settings) by() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + s.node
}

// tell says what was done, and what wider or narrower overrides still say.
func (o *override) tell(cmd *cobra.Command, catalog *service.Catalog, old *service.Override) {
	text := o.done
	switch {
	case o.name == "undrain" && (old == nil || old.State == ""):
		text = "it had neither drain nor maintenance by command"
	case o.name == "weight" && o.weight != nil:
		text = fmt.Sprintf("weight %d", *o.weight)
	case o.name == "weight" && (old == nil || old.Weight == nil):
		text = "it had no weight of its own"
	}
	if o.lasts > 0 {
		text += ", ends " + endOf(o.written)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", o.target, text)
	s := catalog.Service(o.target.Service)
	if s == nil {
		return
	}
	if o.ends && alone(s, o.target.Covers) {
		fmt.Fprintln(cmd.ErrOrStderr(), nobodyElse(s))
	}
	for _, other := range s.Overrides {
		if other.Target != o.target && (other.State != "") == (o.name != "weight") && meets(s, other.Target, o.target) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: there is another override as well, and the narrower one wins: %s\n", o.target, describe(other))
		}
	}
}

// alone tells whether these are the last instances of a service that get requests.
func alone(s *service.Service, of func(*service.Instance) bool) bool {
	return !slices.ContainsFunc(s.Instances, func(i *service.Instance) bool {
		return !of(i) && i.State == service.Ready && s.Ruling(i).State == nil
	})
}

// nobodyElse warns of a service without instances.
func nobodyElse(s *service.Service) string {
	return "nobody else serves " + s.Name + ": its requests are answered 503 meanwhile"
}

// meets tells whether two targets have an instance in common.
func meets(s *service.Service, a, b service.Target) bool {
	return slices.ContainsFunc(s.Instances, func(i *service.Instance) bool { return a.Covers(i) && b.Covers(i) })
}

// describe writes an override as people read it.
func describe(o *service.Override) string {
	text := o.Words()
	if !o.Until.IsZero() {
		text += ", ends " + endOf(o)
	}
	return text
}

// undrainStopped makes the agent of an instance forget that it was told to stop.
func (o *override) undrainStopped(cmd *cobra.Command, asker *ask.Asker, catalog *service.Catalog, revision int64) error {
	i := instanceOf(catalog, o.target)
	if i == nil || i.State != service.Draining {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.limit(defaultApply))
	defer cancel()
	report, err := asker.Wait(ctx, o.newAsk(service.WantUndrained, i.Key(o.prefix), revision))
	if err == nil && report.Nodes == 0 {
		return fmt.Errorf("%s was told to stop, and the agent of %s is not there to take that back", o.target, i.Node)
	}
	if err := unanswered(report, err); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: the stop signal that it was sent does not count any more\n", o.target)
	return nil
}

// instanceOf is the instance that a target names, nil if it names more or none.
func instanceOf(c *service.Catalog, t service.Target) *service.Instance {
	s := c.Service(t.Service)
	if s == nil || t.ID == "" {
		return nil
	}
	at := slices.IndexFunc(s.Instances, t.Covers)
	if at < 0 {
		return nil
	}
	return s.Instances[at]
}

// await waits until every agent has applied the override, and for what takes instances out until the last
// session has ended.
func (o *override) await(cmd *cobra.Command, asker *ask.Asker, catalog *service.Catalog, revision int64) error {
	want, limit := service.WantApplied, defaultApply
	if o.ends {
		want, limit = service.WantEnded, drainOf(catalog, o.target.Covers)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.limit(limit))
	defer cancel()
	return waitFor(ctx, cmd, asker, o.newAsk(want, o.target.Key(o.prefix), revision))
}

// limit is how long to wait.
func (o *override) limit(otherwise time.Duration) time.Duration {
	if o.timeout > 0 {
		return o.timeout
	}
	return otherwise
}

// drainOf is how long sessions of these instances may last, and agents may take to apply that.
func drainOf(c *service.Catalog, of func(*service.Instance) bool) time.Duration {
	longest, some := time.Duration(0), false
	for _, s := range c.Services {
		for _, i := range s.Instances {
			if !of(i) {
				continue
			}
			d, err := time.ParseDuration(i.Options["drain"])
			if err != nil {
				d = defaultDrain
			}
			longest, some = max(longest, d), true
		}
	}
	if !some {
		return defaultDrain
	}
	return max(longest, leastWait)
}
