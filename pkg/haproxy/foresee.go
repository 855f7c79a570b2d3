package haproxy

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Foresight is what a driver would do to put a set of files in force.
type Foresight struct {
	InForce  render.Files // what is on disk now, in the order of the wanted ones
	Same     bool         // that is what is wanted
	Commands []string     // what runtime commands would do, in a few words each
	Reload   Reason       // why it takes a reload; the zero value if it takes none
	Silent   error        // why HAProxy could not be asked what it can at run time: the least was taken
}

// Foresee says what a driver with c's path and runtime socket would do to put want in force, and touches
// nothing. It goes by the files on disk, which follow runtime commands within moments.
func Foresee(ctx context.Context, c Config, want render.Files) (Foresight, error) {
	s := store{path: c.Path}
	if err := s.valid(want); err != nil {
		return Foresight{}, err
	}
	names, err := s.present(namesOf(want))
	if err != nil {
		return Foresight{}, fmt.Errorf("read the live configuration: %w", err)
	}
	files, err := s.read(names)
	if err != nil {
		return Foresight{}, err
	}
	f := Foresight{InForce: files, Same: sameFiles(files, want)}
	if f.Same {
		return f, nil
	}
	var can Capabilities
	api := runtimeAPI{c.RuntimeSocket}
	if _, f.Silent = api.info(ctx); f.Silent == nil {
		can.Cookie, _ = api.takesCookies(ctx, files[0].Text())
	}
	cmds, reload := Plan(files, want, can)
	if f.Reload = reload; reload.needed() {
		return f, nil
	}
	for _, cmd := range cmds {
		f.Commands = append(f.Commands, cmd.brief())
	}
	return f, nil
}

// present are those of the names that are there, and then the other names of the set in force.
func (s store) present(names []string) ([]string, error) {
	p, err := s.place()
	if err != nil {
		return nil, err
	}
	defer p.close() // it was only looked through
	linked, err := p.links()
	if err != nil {
		return nil, err
	}
	slices.Sort(linked)
	there := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := p.root.Lstat(name)
		return os.IsNotExist(err)
	})
	for _, name := range linked {
		if name != p.name && !slices.Contains(there, name) {
			there = append(there, name)
		}
	}
	return there, nil
}
