package convention

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// mark is one of another program's names on a container, and its value.
type mark struct {
	kind, name, text string
}

// String writes the mark so that it can be read in a log whatever is in it.
func (m mark) String() string {
	const most = 60
	name := m.name
	if len(name) > most || strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && r != '.' && (r > 'z' || !unicode.IsDigit(r) && !unicode.IsLetter(r))
	}) {
		name = strconv.Quote(strings.ToValidUTF8(name[:min(len(name), most)], "?"))
	}
	return m.kind + " " + name
}

// set is the setting that the mark comes to, with the mark's value where that may be shown.
func (m mark) set(label, text string) service.Setting {
	return service.Setting{Label: label, Text: text, Mark: fmt.Sprintf("%s=%.40q", m, m.text)}
}

// refuse is the setting of a mark that has no value as that label.
func (m mark) refuse(label, why string, args ...any) service.Setting {
	s := m.set(label, "")
	s.Err = fmt.Errorf(why, args...)
	return s
}

// marks are all names with a value on a container that may be those of another program.
type marks map[string]mark

// marksOf collects a container's marks, for conventions other than our own; nil if none of them is
// on. Labels win over the environment: they are nearer to who runs the container.
func marksOf(on []string, c *Container) marks {
	if !slices.ContainsFunc(on, func(name string) bool { return name != Sidekick }) {
		return nil
	}
	m := marks{}
	for _, entry := range c.Env {
		if name, text, _ := strings.Cut(entry, "="); text != "" {
			m[name] = mark{"environment variable", name, text}
		}
	}
	for name, text := range c.Labels {
		if text != "" {
			m[name] = mark{"label", name, text}
		}
	}
	return m
}

// has tells whether there is a mark of one of these names.
func (m marks) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := m[name]; return ok })
}

// sorted lists the names.
func (m marks) sorted() []string { return slices.Sorted(maps.Keys(m)) }

// notes are what is not acted on, each once.
type notes []string

func (n *notes) add(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(*n, text) {
		*n = append(*n, text)
	}
}

// ignored notes those of the named marks that are there: they have no counterpart here. Values are
// not shown, as some are secrets.
func (n *notes) ignored(m marks, mend string, names ...string) {
	for _, name := range names {
		if found, ok := m[name]; ok {
			n.add("%s is not acted on: %s", found, mend)
		}
	}
}

// nameOf is the setting of a service's name. One that is none here is made one, and noted.
func (m mark) nameOf(text string, n *notes) service.Setting {
	const longest = 255
	if len(text) > longest || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return m.refuse("service", "no service can have that name: use lower-case letters, digits and inner hyphens, at most 63")
	}
	name := service.DeriveName(text)
	if name != strings.ToLower(text) {
		n.add("%s is no name of a service (lower-case letters, digits, inner hyphens, at most 63): it is registered as %s; sidekick.service gives it another", m.set("", "").Mark, name)
	}
	return m.set("service", name)
}

// items takes a comma list apart, without blanks around its items and empty ones.
func items(list string) []string {
	var all []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

// portList reads the ports of a comma list.
func portList(list string) ([]uint16, error) {
	var ports []uint16
	for _, item := range items(list) {
		port, err := strconv.ParseUint(item, 10, 16)
		if err != nil || port == 0 {
			return nil, errors.New("want port numbers with commas between them")
		}
		ports = append(ports, uint16(port))
	}
	return ports, nil
}

// PrintPorts lists ports for people, the first few if there are many.
func PrintPorts(ports []uint16) string {
	const most = 8
	var texts []string
	for _, p := range ports[:min(len(ports), most)] {
		texts = append(texts, port(p))
	}
	if len(ports) > most {
		texts = append(texts, "…")
	}
	return strings.Join(texts, ", ")
}

func port(p uint16) string { return strconv.Itoa(int(p)) }

// portSetting is one that needs no mark, because it is a port that the container has.
func portSetting(p uint16) service.Setting {
	return service.Setting{Label: "port", Text: port(p), Mark: "port of the container"}
}

// hostService names the service of a container that compose does not name: by what it serves, so
// that containers with the same hosts and path share the requests, as they did before.
func (m mark) hostService(c *Container, hosts, path string) []service.Setting {
	if c.Compose {
		return nil
	}
	if path == "/" {
		path = ""
	}
	return []service.Setting{m.set("service", service.DeriveName(hosts+path))}
}
