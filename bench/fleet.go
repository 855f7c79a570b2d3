package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// fleetOptions are the flags of `bench fleet`.
type fleetOptions struct {
	binary, program, only string
	agents, instances     int
	full, lists, proxies  int
	late                  bool
	ttl, steady           time.Duration
	puts, rate            int
	burst                 time.Duration
	sizes                 []int
}

// fleetFlags reads the flags of `bench fleet`.
func fleetFlags(args []string) (fleetOptions, error) {
	var o fleetOptions
	flags := flag.NewFlagSet("bench fleet", flag.ContinueOnError)
	flags.StringVar(&o.binary, "sidekick", "bin/sidekick", "the program that has the etcd, and whose agent is measured")
	flags.StringVar(&o.program, "haproxy", "haproxy", "HAProxy, for the part agent")
	flags.StringVar(&o.only, "only", "", "the parts to run besides the start, such as steady,put; all if empty")
	flags.IntVar(&o.agents, "agents", 1_000, "agents")
	flags.IntVar(&o.instances, "instances", 100, "instances of each")
	flags.IntVar(&o.full, "full", 5, "agents that keep the whole catalog; the others count what they are sent")
	flags.IntVar(&o.lists, "lists", 100, "agents that list everything at once, in the part lists")
	flags.BoolVar(&o.late, "late", false, "agents begin to watch when all are registered, or else each sees what all others register")
	flags.IntVar(&o.proxies, "proxies", 0, "gRPC proxies between the agents and etcd")
	flags.DurationVar(&o.ttl, "ttl", 15*time.Second, "time to live of the leases")
	flags.DurationVar(&o.steady, "steady", time.Minute, "length of the part steady")
	flags.IntVar(&o.puts, "puts", 100, "changes of the part put")
	flags.IntVar(&o.rate, "rate", 20, "changes per second of the part burst")
	flags.DurationVar(&o.burst, "burst", 30*time.Second, "length of the part burst")
	sizes := flags.String("sizes", "100,10000,100000", "instances in the registry, for the parts reader and agent")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for word := range strings.SplitSeq(*sizes, ",") {
		var size int
		if _, err := fmt.Sscan(word, &size); err != nil {
			return o, fmt.Errorf("-sizes %q: %w", *sizes, err)
		}
		o.sizes = append(o.sizes, size)
	}
	if o.full >= o.agents {
		return o, errors.New("-full leaves none of -agents that only counts")
	}
	return o, nil
}

func (o fleetOptions) wants(part string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), part)
}

// benchFleet measures what many agents cost one etcd, and one agent among many instances.
func benchFleet(ctx context.Context, args []string) error {
	o, err := fleetFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := benchManyAgents(ctx, o); err != nil {
		return err
	}
	if o.wants("reader") {
		if err := benchReaders(ctx, o); err != nil {
			return fmt.Errorf("reader: %w", err)
		}
	}
	if o.wants("agent") {
		for _, size := range o.sizes {
			if _, err := benchSize(ctx, o.binary, o.program, size, 20); err != nil {
				return fmt.Errorf("agent: %d instances: %w", size, err)
			}
		}
	}
	return nil
}

// fleetPart is what is measured of agents that run.
type fleetPart struct {
	name string
	run  func(*fleet, context.Context) error
}

// benchManyAgents starts the agents, and measures one part after the other.
func benchManyAgents(ctx context.Context, o fleetOptions) error {
	parts := slices.DeleteFunc([]fleetPart{
		{"start", (*fleet).start},
		{"steady", (*fleet).steady},
		{"put", (*fleet).put},
		{"burst", (*fleet).changes},
		{"lists", (*fleet).list},
		{"restart", (*fleet).restart},
		{"away", (*fleet).away},
		{"emptied", (*fleet).empty},
	}, func(p fleetPart) bool { return p.name != "start" && !o.wants(p.name) })
	if len(parts) == 1 && !o.wants("start") {
		return nil
	}
	f, err := newFleet(ctx, o)
	if err != nil {
		return err
	}
	defer f.close()
	for _, p := range parts {
		if err := p.run(f, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := f.calm(ctx); err != nil {
			return fmt.Errorf("after %s: %w", p.name, err)
		}
	}
	return nil
}

// say prints one figure: for people, and by its fixed width and order for programs.
func (f *fleet) say(part, what, format string, args ...any) {
	fmt.Printf("  %-8s %-44s %s\n", part, what, fmt.Sprintf(format, args...))
}

// fleetChild runs what `bench fleet` starts as processes of their own.
func fleetChild(ctx context.Context, args []string) (bool, error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case "fleet":
		return true, benchFleet(ctx, args[1:])
	case "fleet-proxy":
		return true, fleetProxy(ctx, args[1], args[2])
	case "fleet-reader":
		return true, fleetReader(ctx, args[1], args[2], os.Stdin, os.Stdout)
	}
	return false, nil
}
