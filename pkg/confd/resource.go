package confd

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/kelseyhightower/memkv"
)

// largest is the size of a resource file, in bytes; the parser needs much memory for deep nesting.
const largest = 64 << 10

// Resource is what a resource file says.
type Resource struct {
	Name         string // the file's path below the directory, as in conf.d/haproxy.toml
	Src, Dest    string
	Prefix       string   // clean, begins with a slash
	Roots        []string // with the prefix; what is one of them or lies below one is read
	Mode         fs.FileMode
	ModeGiven    bool
	UID, GID     int    // -1: not given
	Owner, Group string // by name, where no number is given

	backend                 Backend
	check                   *template.Template // nil without check_cmd
	reload                  string
	checkLimit, reloadLimit time.Duration // 0: the usual one
	reloadInterval          time.Duration // least time between two reloads
	settle                  time.Duration // how long bursts of changes are held off; 0: the usual
	format                  string        // that the text must have
}

// fields are the keys of a resource file, as confd names them.
type fields struct {
	Template struct {
		Src, Dest, Prefix, Mode, Owner, Group string
		Keys                                  []string
		UID                                   int    `toml:"uid"`
		GID                                   int    `toml:"gid"`
		CheckCmd                              string `toml:"check_cmd"`
		ReloadCmd                             string `toml:"reload_cmd"`
		CheckLimit                            limit  `toml:"check_cmd_timeout"`
		ReloadLimit                           limit  `toml:"reload_cmd_timeout"`
		ReloadInterval                        limit  `toml:"min_reload_interval"`
		Debounce                              limit  `toml:"debounce"`
		OutputFormat                          string `toml:"output_format"`
	} `toml:"template"`
	Backend Backend `toml:"backend"`
}

// limit is a time that a file gives; 0 is the usual one.
type limit struct{ time.Duration }

// UnmarshalText reads a duration as Go writes it, or none.
func (l *limit) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		return nil
	}
	if l.Duration, err = time.ParseDuration(string(text)); err == nil && l.Duration < 0 {
		err = errors.New("a time is not negative")
	}
	return err
}

// parseResource reads a resource file. A global prefix takes the place of the resource's own, or stands before
// it. What the file says and nobody acts on is a note.
func parseResource(name, text string, global prefix) (*Resource, []string, error) {
	if len(text) > largest {
		return nil, nil, fmt.Errorf("%s: %d bytes: a resource file has at most %d", name, len(text), largest)
	}
	var f fields
	f.Template.UID, f.Template.GID = -1, -1
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, located(err))
	}
	t := f.Template
	r := &Resource{
		Name: name, Src: t.Src, Dest: t.Dest, Prefix: global.with(t.Prefix),
		UID: t.UID, GID: t.GID, Owner: t.Owner, Group: t.Group, reload: t.ReloadCmd,
		checkLimit: t.CheckLimit.Duration, reloadLimit: t.ReloadLimit.Duration, reloadInterval: t.ReloadInterval.Duration,
		settle: t.Debounce.Duration, format: t.OutputFormat, backend: f.Backend,
	}
	r.Roots = roots(r.Prefix, t.Keys)
	errs := []error{r.backend.check(), checkFormat(r.format)}
	if r.Src == "" {
		errs = append(errs, errors.New("src is missing: name a file in templates"))
	}
	if r.Dest == "" {
		errs = append(errs, errors.New("dest is missing: name the file to write"))
	}
	if t.Mode != "" {
		r.ModeGiven = true
		r.Mode, err = parseMode(t.Mode)
		errs = append(errs, err)
	}
	if t.CheckCmd != "" {
		r.check, err = template.New("check_cmd").Option("missingkey=error").Parse(t.CheckCmd)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, undecoded(meta), nil
}

// prefix is one for all resources. Before confd 0.32 it takes the place of a resource's own, since then it
// stands before that.
type prefix struct {
	text   string
	joined bool
}

// with is the prefix of a resource's keys.
func (p prefix) with(own string) string {
	if p.joined {
		return path.Join("/", p.text, own)
	}
	return path.Join("/", cmp.Or(p.text, own))
}

// located names the line and column of a fault in TOML.
func located(err error) error {
	if p, ok := errors.AsType[toml.ParseError](err); ok {
		return fmt.Errorf("line %d, column %d: %s", p.Position.Line, p.Position.Col, p.Message)
	}
	return err
}

// undecoded names what a file says that is not acted on, one name for a table.
func undecoded(meta toml.MetaData) []string {
	var names []string
	for _, key := range meta.Undecoded() {
		name := key.String()
		if len(key) > 1 && key[0] != "template" {
			name = key[0]
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// parseMode reads permissions. They are octal with and without a zero in front: confd takes 644 for
// the decimal number, which nobody means.
func parseMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 12)
	if err != nil {
		return 0, fmt.Errorf("mode %q: want octal digits as in \"0644\"", text)
	}
	mode := fs.FileMode(n).Perm()
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			mode |= flag
		}
	}
	return mode, nil
}

// roots puts the prefix before the keys, and leaves out those that lie below others.
func roots(prefix string, keys []string) []string {
	all := make([]string, 0, len(keys))
	for _, key := range keys {
		all = append(all, path.Join(prefix, key))
	}
	slices.Sort(all)
	var few []string
	for _, root := range slices.Compact(all) {
		if !slices.ContainsFunc(few, func(other string) bool { return below(other, root) }) {
			few = append(few, root)
		}
	}
	return few
}

// below tells whether a key is another or lies below it.
func below(root, key string) bool {
	rest, ok := strings.CutPrefix(key, root)
	return ok && (rest == "" || rest[0] == '/' || root == "/")
}

// sameKeys tells whether another definition of the resource asks for the same.
func (r *Resource) sameKeys(other *Resource) bool {
	a, b := r.backend, other.backend
	return slices.Equal(r.Roots, other.Roots) && a.Name == b.Name && a.Filter == b.Filter && slices.Equal(a.Files, b.Files)
}

// store holds the keys as templates name them: without the prefix.
func (r *Resource) store(keys map[string]string) *memkv.Store {
	store := memkv.New()
	for key, value := range keys {
		store.Set(path.Join("/", strings.TrimPrefix(key, r.Prefix)), value)
	}
	return &store
}
