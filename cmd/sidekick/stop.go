package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/docker"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	stopMargin    = time.Minute      // by which the overrides of a stop that dies outlive the time that it may take
	leavePatience = 30 * time.Second // for stopped containers to leave the registry
	undoLimit     = 5 * time.Second  // for taking overrides back
)

// stopBy begins what the overrides of a stop say of who put them.
const stopBy = "sidekick stop by "

// errOthers says that an override is not, or not any more, that of this stop: it stays.
var errOthers = errors.New("somebody else has changed it")

// stopping is one run of the stop command.
type stopping struct {
	*settings
	timeout time.Duration
	grace   int // --time, below 0 if not given
	client  *clientv3.Client
	board   *etcd.Board
	boxes   []docker.Box
	catalog *service.Catalog
	targets []service.Target
	before  []*service.Override // of the targets
	until   time.Time           // end of the overrides that are put
	host    string              // whose instances of these containers are meant, "" for all
}

func stopCommand() *cobra.Command {
	s := &stopping{settings: newSettings()}
	cmd := &cobra.Command{
		Use: "stop CONTAINER...", Short: "Takes containers out of every proxy, waits for their last sessions, and stops them",
		Long: "Every agent takes the instances of the containers out of its proxy, and says when the last session on\n" +
			"them has ended; then the engine is told to stop them, as by `docker stop`. When the time is up the\n" +
			"containers are stopped all the same, and the exit code is 1.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if len(args) == 0 || s.timeout < 0 {
				return usageError{fmt.Errorf("%s takes the name or id of a container, or several, and no --timeout below 0", cmd.CommandPath())}
			}
			if err := s.becomeAgent(true); err != nil {
				return err
			}
			return s.run(cmd, args)
		},
	}
	cmd.Flags().DurationVar(&s.timeout, "timeout", 0, "how long sessions may last at most; 0 is the service's sidekick.drain, or 30s")
	cmd.Flags().IntVar(&s.grace, "time", -1, "seconds that a container may take after its stop signal, as for docker stop; below 0 is the container's own")
	s.offer(cmd, []string{"docker", "node", "state-dir", "user"}, registrySettings)
	return cmd
}

func (s *stopping) run(cmd *cobra.Command, names []string) error {
	ctx := cmd.Context()
	if err := s.find(ctx, names); err != nil {
		return err
	}
	var err error
	if s.client, err = s.openRegistry(ctx); err != nil {
		return err
	}
	defer s.client.Close()
	s.board = &etcd.Board{Client: s.client, Prefix: s.prefix}
	if s.catalog, err = s.readFrom(ctx, s.client, registryPatience, func(*service.Catalog) bool { return true }); err != nil {
		return err
	}
	s.pick(cmd)
	late, err := s.takeOut(cmd)
	if err != nil {
		return errors.Join(fmt.Errorf("%w; nothing was stopped", err), s.takeBack(ctx))
	}
	if err := s.stop(cmd); err != nil {
		return errors.Join(late, err, s.takeBack(ctx))
	}
	return errors.Join(late, s.leave(ctx))
}

// find looks the containers up.
func (s *stopping) find(ctx context.Context, names []string) error {
	if s.docker == off {
		return usageError{errors.New("--docker is off: there is no engine to stop containers; give its address")}
	}
	var errs []error
	for _, name := range names {
		box, err := docker.Find(ctx, s.docker, name)
		errs = append(errs, err)
		s.boxes = append(s.boxes, box)
	}
	return errors.Join(errs...)
}

// holds tells whether an instance is of the containers.
func (s *stopping) holds(i *service.Instance) bool {
	return (s.host == "" || i.Node == s.host) && slices.ContainsFunc(s.boxes, func(b docker.Box) bool { return i.Container != "" && i.Container == b.Short })
}

// isHere tells whether the registry has one of the containers under this host's name. If so, those of the
// same id on other hosts, which may be copies of this one, are not meant.
func (s *stopping) isHere() bool {
	return slices.ContainsFunc(s.catalog.Services, func(svc *service.Service) bool {
		return slices.ContainsFunc(svc.Instances, func(i *service.Instance) bool { return i.Node == s.node && s.holds(i) })
	})
}

// pick finds the instances of the containers in the registry.
func (s *stopping) pick(cmd *cobra.Command) {
	if s.isHere() {
		s.host = s.node
	}
	known := map[string]bool{}
	for _, svc := range s.catalog.Services {
		if slices.ContainsFunc(svc.Instances, s.holds) && alone(svc, s.holds) {
			fmt.Fprintln(cmd.ErrOrStderr(), nobodyElse(svc))
		}
		for _, i := range svc.Instances {
			if s.holds(i) {
				known[i.Container] = true
				s.targets = append(s.targets, service.Target{Service: i.Service, Node: i.Node, ID: i.ID})
			}
		}
	}
	for _, b := range s.boxes {
		if !known[b.Short] {
			fmt.Fprintf(cmd.ErrOrStderr(), "container %s is not registered: it is just stopped\n", b.Name)
		}
	}
}

// takeOut takes the instances out of every proxy, and waits until their last sessions have ended. late is
// who did not answer in time or what is left, with which the containers are stopped all the same.
func (s *stopping) takeOut(cmd *cobra.Command) (late, err error) {
	if len(s.targets) == 0 {
		return nil, nil
	}
	ctx := cmd.Context()
	limit := s.timeout
	if limit == 0 {
		limit = drainOf(s.catalog, s.holds)
	}
	revision, err := s.override(ctx, limit)
	if err != nil {
		return nil, err
	}
	var asks []service.Ask
	for _, t := range s.targets {
		asks = append(asks, s.newAsk(service.WantEnded, t.Key(s.prefix), revision))
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	late = waitFor(waiting, cmd, s.newAsker(cmd, s.client), asks...)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	return late, nil
}

// override puts an override for each instance, which ends by itself if this command dies.
func (s *stopping) override(ctx context.Context, limit time.Duration) (revision int64, err error) {
	s.until = time.Now().Add(limit + s.longestGrace() + stopMargin).UTC()
	for _, t := range s.targets {
		var asked bool
		var before *service.Override
		revision, _, err = s.board.Change(ctx, t, func(old *service.Override) (*service.Override, error) {
			o := &service.Override{Target: t, State: service.Maint, Until: s.until, By: stopBy + s.by()}
			if old != nil {
				o.Weight = old.Weight
			}
			asked, before = true, beforeStop(old)
			return o, nil
		})
		if asked { // and perhaps written, though an interrupted command does not hear of it
			s.before = append(s.before, before)
		}
		if err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// beforeStop is what an override was before anybody stopped its target: another stop of it takes its own
// back by itself, or is dead.
func beforeStop(o *service.Override) *service.Override {
	if o == nil || !strings.HasPrefix(o.By, stopBy) {
		return o
	}
	if o.Weight == nil {
		return nil
	}
	return &service.Override{Target: o.Target, Weight: o.Weight, By: strings.TrimPrefix(o.By, stopBy)}
}

// longestGrace is how long the engine may take to stop the containers.
func (s *stopping) longestGrace() time.Duration {
	if s.grace >= 0 {
		return time.Duration(s.grace) * time.Second
	}
	longest := time.Duration(0)
	for _, b := range s.boxes {
		longest = max(longest, b.Grace)
	}
	return longest
}

// stop has the engine stop the containers, all at a time.
func (s *stopping) stop(cmd *cobra.Command) error {
	var grace *int
	if s.grace >= 0 {
		grace = &s.grace
	}
	errs := make(chan error, len(s.boxes))
	for _, b := range s.boxes {
		go func() { errs <- docker.Stop(cmd.Context(), s.docker, b.ID, grace) }()
	}
	var all []error
	for range s.boxes {
		all = append(all, <-errs)
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	for _, b := range s.boxes {
		fmt.Fprintln(cmd.OutOrStdout(), b.Name)
	}
	return nil
}

// leave waits until the instances have left the registry, and then takes the overrides back: before, proxies
// would send requests to what has ended.
func (s *stopping) leave(ctx context.Context) error {
	if len(s.targets) == 0 {
		return nil
	}
	_, err := s.readFrom(ctx, s.client, leavePatience, func(c *service.Catalog) bool {
		return !slices.ContainsFunc(c.Services, func(svc *service.Service) bool { return slices.ContainsFunc(svc.Instances, s.holds) })
	})
	switch {
	case errors.Is(err, errUnmet):
		return fmt.Errorf("stopped, but %s still stands in the registry after %s: is the agent of this host up? Its override ends by itself", s.named(), leavePatience)
	case err != nil:
		return fmt.Errorf("stopped, but its override could not be taken back, and ends by itself: %w", err)
	}
	return s.takeBack(ctx)
}

// named lists the targets.
func (s *stopping) named() string {
	var all []string
	for _, t := range s.targets {
		all = append(all, t.String())
	}
	return strings.Join(all, ", ")
}

// takeBack makes the overrides what they were before, as far as that is still in force.
func (s *stopping) takeBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	var errs []error
	for n, old := range s.before {
		_, _, err := s.board.Change(ctx, s.targets[n], func(now *service.Override) (*service.Override, error) {
			if now == nil || now.By != stopBy+s.by() || !now.Until.Equal(s.until) {
				return nil, errOthers
			}
			if old != nil && !old.InForce(time.Now()) {
				return nil, nil //nolint:nilnil // none is what is left of it
			}
			return old, nil
		})
		if !errors.Is(err, errOthers) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
