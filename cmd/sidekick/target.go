package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// findTarget refuses a target that names nothing, with the names that there are. What has an override is
// there, so that it can be taken back.
func findTarget(c *service.Catalog, t service.Target) error {
	if slices.ContainsFunc(c.Overrides, func(o *service.Override) bool { return o.Target == t }) {
		return nil
	}
	s := c.Service(t.Service)
	if s == nil {
		var names []string
		for _, s := range c.Services {
			names = append(names, s.Name)
		}
		return unknown("service", t.Service, names)
	}
	var nodes, ids []string
	for _, i := range s.Instances {
		nodes = append(nodes, i.Node)
		if i.Node == t.Node {
			ids = append(ids, i.ID)
		}
	}
	switch {
	case t.Node != "" && !slices.Contains(nodes, t.Node):
		return unknown("node with an instance of "+t.Service, t.Node, slices.Compact(nodes))
	case t.ID != "" && !slices.Contains(ids, t.ID):
		return unknown("instance of "+t.Service+" on "+t.Node, t.ID, ids)
	}
	return nil
}

// unknown says that there is no such thing, and which there are, the most similar first.
func unknown(thing, name string, names []string) error {
	const most = 10
	if len(names) == 0 {
		return fmt.Errorf("there is no %s %q, nor any other", thing, name)
	}
	names = slices.Clone(names)
	slices.SortStableFunc(names, func(a, b string) int { return service.Distance(name, a) - service.Distance(name, b) })
	hint, rest := "", ""
	if service.Distance(name, names[0]) <= 2 {
		hint = fmt.Sprintf(" (did you mean %s?)", names[0])
	}
	if len(names) > most {
		names, rest = names[:most], ", …"
	}
	return fmt.Errorf("there is no %s %q%s; there are: %s%s", thing, name, hint, strings.Join(names, ", "), rest)
}
