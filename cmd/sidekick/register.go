package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/declared"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// declaration is what the flags of `sidekick register` say of its instance.
type declaration struct {
	check       string
	hosts, tags []string
	weight      int
	meta        map[string]string
	labels      []string
}

func registerCommand() *cobra.Command {
	s := newSettings()
	s.exitTTL = 0 // whoever ends this command means it
	exit := s.all.Lookup("exit-ttl")
	exit.DefValue, exit.Usage = "0s", "how long the instance outlives the command; 0 removes it at once"
	s.all.Lookup("ttl").Usage = "after which the instance leaves the registry if this command or its host dies"
	var d declaration
	cmd := &cobra.Command{
		Use: "register NAME IP:PORT [-- COMMAND ARGS…]", Short: "One instance that is no container, for as long as this command, or COMMAND, runs",
		RunE: func(cmd *cobra.Command, args []string) error {
			args, command := splitCommand(cmd, args)
			if err := s.load(environ()); err != nil {
				return err
			}
			i, err := s.declared(&d, args)
			if err != nil {
				return usageError{err}
			}
			return s.runRegistered(cmd.Context(), cmd.OutOrStdout(), &i, command)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.check, "check", "", "how it is checked: tcp (the default), http:/path or none")
	f.StringArrayVar(&d.hosts, "host", nil, "host `name` that it serves; may be repeated")
	f.IntVar(&d.weight, "weight", service.DefaultWeight, "its share of requests, 0 to 256")
	f.StringArrayVar(&d.tags, "tag", nil, "`tag` for templates; may be repeated")
	mapVar(f, &d.meta, "meta", "`KEY=VALUE` for templates; may be repeated")
	f.StringArrayVar(&d.labels, "label", nil, "`KEY=VALUE` with any label's name without \"sidekick.\", such as mode=tcp; may be repeated")
	s.offer(cmd, registrySettings, logSettings, []string{"node", "zone", "ttl", "exit-ttl", "state-dir"})
	return cmd
}

// splitCommand takes apart what stands before and after the two dashes.
func splitCommand(cmd *cobra.Command, args []string) (own, command []string) {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		return args[:at], args[at:]
	}
	return args, nil
}

// declared is the instance that the arguments describe.
func (s *settings) declared(d *declaration, args []string) (service.Instance, error) {
	if len(args) != 2 {
		return service.Instance{}, fmt.Errorf("register takes a service's name and an address, got %d arguments: sidekick register db 10.0.0.7:5432", len(args))
	}
	at, errAt := declared.ParseEndpoint(args[1])
	def := service.NewDefinition()
	errs := []error{declared.Set(&def, "service", args[0]), errAt}
	for _, l := range d.said() {
		key, text, ok := strings.Cut(l, "=")
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("--label %.60q: must be KEY=VALUE", l))
		case key == "service":
			errs = append(errs, errors.New("--label service: the name is the first argument"))
		default:
			errs = append(errs, declared.Set(&def, key, text))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return service.Instance{}, err
	}
	host := declared.Host{Node: s.node, Zone: s.zone}
	return host.Instance(service.FromCommand, &def, at, time.Now().UTC().Truncate(time.Second))
}

// said lists what the flags say, as labels.
func (d *declaration) said() []string {
	said := []string{"weight=" + strconv.Itoa(d.weight)}
	if d.check != "" {
		said = append(said, "check="+d.check)
	}
	if len(d.hosts) > 0 {
		said = append(said, "host="+strings.Join(d.hosts, ","))
	}
	if len(d.tags) > 0 {
		said = append(said, "tags="+strings.Join(d.tags, ","))
	}
	for _, key := range slices.Sorted(maps.Keys(d.meta)) {
		said = append(said, "meta."+key+"="+d.meta[key])
	}
	return append(said, d.labels...)
}

// runRegistered holds the instance until ctx is cancelled or the command has ended. The instance goes
// first, so that nobody is sent to a process that is told to end.
func (s *settings) runRegistered(ctx context.Context, out io.Writer, i *service.Instance, command []string) error {
	client, err := s.dialRegistry(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	log := s.newLogger(os.Stderr)
	registry := &etcd.Lone{Client: client, Prefix: s.prefix, Node: s.node, TTL: s.ttl, ExitTTL: s.exitTTL, Log: log}
	teller := &registrationTeller{out: out, key: i.Key(s.prefix), at: i.Service + " " + i.Endpoint().String()}
	held, release := context.WithCancel(ctx)
	defer release()
	child, err := startChild(command, release)
	if err != nil {
		return err
	}
	err = hold(held, &toldRegistry{registry, teller}, teller, log, i)
	teller.ended(s.exitTTL, err)
	return errors.Join(err, child.end())
}

// hold runs the stages from the instance through the gate to the registry, until ctx is cancelled and
// the registry was left in good order.
func hold(ctx context.Context, registry register.Registry, teller *registrationTeller, log *logrus.Logger, i *service.Instance) error {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard) // the teller says what the gate would
	candidates, passed, sets := make(chan []service.Instance), make(chan []service.Instance), make(chan register.Set)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	group, life := errgroup.WithContext(life)
	gate := &register.Gate{Log: quiet, Held: teller.held}
	group.Go(func() error { return send(life, candidates, []service.Instance{*i}) })
	group.Go(func() error { return gate.Run(life, candidates, passed) })
	group.Go(func() error {
		return register.Join(life, sets, register.Part{Origin: service.FromCommand, In: passed})
	})
	group.Go(func() error {
		defer end()
		publisher := &register.Publisher{Registry: registry, Log: log, MaxRetry: time.Second}
		return publisher.Run(ctx, sets)
	})
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// registrationTeller says on standard output what becomes of the instance, each turn once.
type registrationTeller struct {
	out     io.Writer
	at, key string

	mu     sync.Mutex
	state  service.State // as the registry has it, "" if it does not
	reason string        // last told
}

func (t *registrationTeller) say(format string, args ...any) {
	fmt.Fprintf(t.out, t.at+": "+format+"\n", args...)
}

// held takes what the gate holds back.
func (t *registrationTeller) held(list []service.Rejection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now service.Rejection
	if len(list) > 0 {
		now = list[0]
	}
	if now.Reason == t.reason {
		return
	}
	t.reason = now.Reason
	switch {
	case now.Kind == service.HeldByCheck:
		t.say("%s", now.Reason)
	case now.Kind == service.UnhealthyByCheck && t.state == service.Unhealthy: // else when that is written
		t.say("unhealthy: %s", now.Reason)
	}
}

// written takes what the registry has now.
func (t *registrationTeller) written(set register.Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var state service.State
	if len(set.Instances) > 0 {
		state = set.Instances[0].State
	}
	before := t.state
	t.state = state
	switch {
	case state == before:
	case state == service.Unhealthy:
		t.say("unhealthy: %s", t.reason)
	case before == service.Unhealthy:
		t.say("healthy again")
	case state == service.Ready:
		t.say("registered as %s", t.key)
	}
}

// ended says in which state the registry was left.
func (t *registrationTeller) ended(exitTTL time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		t.say("not removed from the registry; it leaves with its lease")
	case t.state != "" && exitTTL > 0:
		t.say("stays registered for %s", exitTTL)
	case t.state != "":
		t.say("removed")
	}
}

// toldRegistry tells of each set that was written.
type toldRegistry struct {
	register.Registry
	teller *registrationTeller
}

// Open implements register.Registry.
func (r *toldRegistry) Open(ctx context.Context) (register.Session, error) {
	s, err := r.Registry.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &toldSession{s, r.teller}, nil
}

type toldSession struct {
	register.Session
	teller *registrationTeller
}

// Set implements register.Session.
func (s *toldSession) Set(ctx context.Context, want register.Set) error {
	err := s.Session.Set(ctx, want)
	if err == nil {
		s.teller.written(want)
	}
	return err
}
