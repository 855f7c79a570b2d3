package haproxy

import (
	"context"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// In this file what runs is held against a text, and brought to it by commands.

// resort puts an earlier text in force while the wanted one cannot be, so that changes of servers have
// something to start from.
func (d *Driver) resort(ctx context.Context, want render.Files, why error) {
	switch {
	case d.former != nil:
		d.mend(ctx, d.former, nil)
	case asRefused(why) != nil:
		if err := d.reloadFromDisk(ctx, want); err != nil {
			d.cfg.Log.WithError(err).Warn("the last good configuration cannot be loaded either")
		}
	}
}

// compared holds what the worker runs against files: its servers and its maps.
func (d *Driver) compared(ctx context.Context, files render.Files) (mismatch, error) {
	d.bulky = true
	live, err := d.api.servers(ctx, d.worker)
	if err != nil {
		return mismatch{}, err
	}
	m := compare(files[0].Text(), live, d.can, d.leaving)
	for _, target := range m.back {
		delete(d.leaving, target) // nobody deletes it now, nor ends its sessions
	}
	err = d.compareMaps(ctx, files, &m)
	return m, err
}

// compareMaps adds what maps hold otherwise than their files say.
func (d *Driver) compareMaps(ctx context.Context, files render.Files, m *mismatch) error {
	var used uses
	for _, f := range files[1:] {
		u := used.of(files, f.Name)
		if u.kind() != useMap || u.other != "" {
			continue
		}
		var live *table // nil if nothing in force loads the map
		err := d.send(ctx, []statement{{
			text:   "show map " + f.Name,
			accept: func(string) bool { return true },
			done: func(answer string) {
				if answer == "" || strings.HasPrefix(answer, "0x") {
					live = parseTable(answer)
				}
			},
		}})
		if err != nil {
			return err
		}
		if live == nil {
			continue
		}
		cmds, why := live.changes(f.Name, readTable(f.Text()), slices.ContainsFunc(u.maps, ordered))
		if why == "" && len(cmds) > 0 {
			m.repair = append(m.repair, cmds...)
			m.what = append(m.what, "map "+f.Name+" has other entries")
		}
	}
	return nil
}

// catchUp brings a worker that runs something on the way from an earlier text to want, if that way
// takes commands alone: what they have done so far can be seen. Those whose effect cannot were not
// among them.
func (d *Driver) catchUp(ctx context.Context, want render.Files) (commands int, ok bool) {
	if d.running != nil || d.former == nil || d.unknown.needed() {
		return 0, false
	}
	way := diff(d.former, want, d.can, nil)
	way.preferReload(want)
	if way.reason.needed() {
		return 0, false
	}
	return d.mend(ctx, want, way.commands())
}

// mend makes servers and maps what a text says, if commands can, runs those on the way there whose effect
// cannot be seen, and notes that the text is in force.
func (d *Driver) mend(ctx context.Context, files render.Files, way []Command) (commands int, ok bool) {
	m, err := d.compared(ctx, files)
	if err != nil || m.reload != "" {
		return 0, false
	}
	besides := slices.DeleteFunc(slices.Clone(way), func(c Command) bool { return !c.unseen() })
	cmds := slices.Concat(worded(m.repair, way), worded(m.left, way), besides)
	d.before(besides)
	if err := d.change(ctx, cmds); err != nil {
		if len(besides) > 0 {
			d.former = nil // nobody knows how far they came
		}
		return 0, false
	}
	d.inForce(files, nil)
	d.dirty()
	return len(cmds), true
}

// worded are removals with all that is known of the servers on the way, such as how long their sessions
// may go on.
func worded(cmds, way []Command) []Command {
	known := map[string]Command{}
	for _, c := range way {
		if c.Op == OpRemove {
			known[c.target()] = c
		}
	}
	all := slices.Clone(cmds)
	for i, c := range all {
		if full, ok := known[c.target()]; ok && c.Op == OpRemove {
			all[i] = full
		}
	}
	return all
}
