package service

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MaxValue is the largest value of an instance, in bytes.
const MaxValue = 8 << 10

// KeyKind says what a key below the prefix holds.
type KeyKind string

// The kinds of key, as they are written after "<prefix>/v1/".
const (
	KeyNode     KeyKind = "nodes"
	KeyInstance KeyKind = "instances"
	KeyOverride KeyKind = "overrides"
	KeyAsk      KeyKind = "asks"
	KeyAnswer   KeyKind = "answers"
)

const version = "/v1/"

// Key is a registry key taken apart. Set are for nodes Node, for instances Node and ID, for overrides
// Service and what follows it, for asks Ask, for answers Node and Ask.
type Key struct {
	Kind    KeyKind
	Service string
	Node    string
	ID      string
	Ask     string
}

// Target is what the key of an override is for.
func (k Key) Target() Target { return Target{Service: k.Service, Node: k.Node, ID: k.ID} }

// Root is the part that all keys under prefix begin with, ending in a slash.
func Root(prefix string) string { return strings.TrimRight(prefix, "/") + version }

// NodeKey is the key under which a node tells about itself, and which it owns others by.
func NodeKey(prefix, node string) string { return Root(prefix) + string(KeyNode) + "/" + node }

// InstancesKey is what the keys of all instances of a node begin with, ending in a slash.
func InstancesKey(prefix, node string) string {
	return Root(prefix) + string(KeyInstance) + "/" + node + "/"
}

// Key is the registry key of the instance under prefix.
func (i *Instance) Key(prefix string) string { return InstancesKey(prefix, i.Node) + i.ID }

// ParseKey takes a key under prefix apart. A key of an unknown kind or with names that no agent
// may have is an error.
func ParseKey(prefix, key string) (Key, error) {
	rest, ok := strings.CutPrefix(key, Root(prefix))
	if !ok {
		return Key{}, fmt.Errorf("key %s is not under %q", quote(key, 120), Root(prefix))
	}
	kind, rest, _ := strings.Cut(rest, "/")
	k := Key{Kind: KeyKind(kind)}
	var err error
	switch k.Kind {
	case KeyNode:
		k.Node, err = rest, nodeName(rest)
	case KeyInstance:
		k.Node, k.ID, _ = strings.Cut(rest, "/")
		err = cmp.Or(nodeName(k.Node), idName(k.ID, "instance id"))
	case KeyOverride:
		var t Target
		t, err = ParseTarget(rest)
		k.Service, k.Node, k.ID = t.Service, t.Node, t.ID
	case KeyAsk:
		k.Ask, err = rest, idName(rest, "id of an ask")
	case KeyAnswer:
		k.Node, k.Ask, _ = strings.Cut(rest, "/")
		err = cmp.Or(nodeName(k.Node), idName(k.Ask, "id of an ask"))
	default:
		err = fmt.Errorf("unknown kind %s", quote(kind, 40))
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", quote(key, 120), err)
	}
	return k, nil
}

func nodeName(name string) error {
	if ValidName(name) {
		return nil
	}
	return fmt.Errorf("%s is no node name (lower-case letters, digits, inner hyphens, at most %d)", quote(name, 40), maxName)
}

func idName(id, what string) error {
	if ValidID(id) {
		return nil
	}
	return fmt.Errorf("%s is no %s ([A-Za-z0-9._-], 1 to 128 characters)", quote(id, 40), what)
}

// value is the JSON form of an instance. Absent fields stand for the defaults.
type value struct {
	Service   string            `json:"service"`
	Address   string            `json:"address"`
	Port      int               `json:"port"`
	State     State             `json:"state,omitempty"`
	Weight    *int              `json:"weight,omitempty"`
	Mode      Mode              `json:"mode,omitempty"`
	Hosts     []string          `json:"hosts,omitempty"`
	Path      string            `json:"path,omitempty"`
	Listen    int               `json:"listen,omitempty"`
	Scope     string            `json:"scope,omitempty"`
	Container string            `json:"container,omitempty"`
	Name      string            `json:"name,omitempty"`
	Zone      string            `json:"zone,omitempty"`
	Started   time.Time         `json:"started,omitzero"`
	Options   map[string]string `json:"options,omitempty"`
	Tags      []string          `json:"tags,omitempty"`
	Meta      map[string]string `json:"meta,omitempty"`
}

// Encode gives the registry value of the instance. The same instance gives the same bytes. It
// fails when the instance breaks a rule that readers would reject it by, or is too large.
func (i *Instance) Encode() ([]byte, error) {
	if err := i.Validate(); err != nil {
		return nil, err
	}
	b, err := i.marshal()
	if err == nil && len(b) > MaxValue {
		err = fmt.Errorf("instance %s/%s: its value has %d bytes, more than %d: use fewer tags, meta or options", i.Node, i.ID, len(b), MaxValue)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// marshal writes the value as it is. That of an instance which was read may be longer than it was
// in the registry, because it names the defaults.
func (i *Instance) marshal() ([]byte, error) {
	b, err := marshal(i.value())
	if err != nil {
		return nil, fmt.Errorf("instance %s/%s: %w", i.Node, i.ID, err)
	}
	return b, nil
}

// value is the instance in the form of its JSON.
func (i *Instance) value() *value {
	return &value{
		Service: i.Service, Address: i.Address.Unmap().String(), Port: int(i.Port),
		State: i.State, Weight: &i.Weight, Mode: i.Mode, Hosts: i.Hosts, Path: i.Path,
		Listen: int(i.Listen), Scope: i.Scope, Container: i.Container, Name: i.Name, Zone: i.Zone,
		Started: i.Started.UTC(), Options: i.Options, Tags: i.Tags, Meta: i.Meta,
	}
}

// marshal writes JSON without HTML escapes and without a newline at its end.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := newEncoder(&b).Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// newEncoder writes JSON without HTML escapes, and a newline behind each value.
func newEncoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// DecodeInstance reads the value of the instance of that node and id. Unknown fields are ignored;
// absent ones get their defaults; hosts and path get the form that labels give them; any rule that
// is broken is an error.
func DecodeInstance(node, id string, b []byte) (Instance, error) {
	var v value
	if err := unmarshal(b, &v, "an instance"); err != nil {
		return Instance{}, err
	}
	addr, err := netip.ParseAddr(v.Address)
	if err != nil {
		return Instance{}, fmt.Errorf("address %.40q is no IP literal", v.Address)
	}
	if v.Port < 1 || v.Port > 65535 {
		return Instance{}, fmt.Errorf("port %d is outside 1 to 65535", v.Port)
	}
	if v.Listen < 0 || v.Listen > 65535 {
		return Instance{}, fmt.Errorf("listen %d is outside 0 to 65535", v.Listen)
	}
	i := Instance{
		Node: node, ID: id, Service: v.Service, Address: addr.Unmap(), Port: uint16(v.Port),
		State: orDefault(v.State, Ready), Weight: DefaultWeight, Mode: orDefault(v.Mode, HTTP),
		Hosts: v.Hosts, Path: orDefault(v.Path, "/"), Listen: uint16(v.Listen), Scope: v.Scope,
		Container: v.Container, Name: v.Name, Zone: v.Zone, Started: v.Started.UTC(),
		Options: v.Options, Tags: v.Tags, Meta: v.Meta,
	}
	if v.Weight != nil {
		i.Weight = *v.Weight
	}
	i.Hosts = sameForm(i.Hosts)
	i.dropEmpty()
	if err := i.Validate(); err != nil {
		return Instance{}, err
	}
	i.Path = trimPath(i.Path)
	return i, nil
}

// sameForm gives host names as labels do, so that those of two writers can be compared: in lower
// case, each once.
func sameForm(hosts []string) []string {
	var once []string
	for _, h := range hosts {
		if h = lowerASCII(h); !slices.Contains(once, h) {
			once = append(once, h)
		}
	}
	return once
}

// dropEmpty makes nothing out of what is empty, as there is one way to write both.
func (i *Instance) dropEmpty() {
	if len(i.Hosts) == 0 {
		i.Hosts = nil
	}
	if len(i.Tags) == 0 {
		i.Tags = nil
	}
	if len(i.Options) == 0 {
		i.Options = nil
	}
	if len(i.Meta) == 0 {
		i.Meta = nil
	}
}

func orDefault[T ~string](got, otherwise T) T {
	if got == "" {
		return otherwise
	}
	return got
}

// Validate checks every rule that an instance must keep to be written or routed, and names all
// that are broken.
func (i *Instance) Validate() error {
	var errs []error
	complain := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	complain(ValidName(i.Node), "node %.40q is no name", i.Node)
	complain(ValidID(i.ID), "id %.40q is no instance id", i.ID)
	complain(ValidName(i.Service), "service %.40q is no name (lower-case letters, digits, inner hyphens, at most %d)", i.Service, maxName)
	complain(validAddress(i.Address), "address %q cannot be connected to", i.Address)
	complain(i.Port > 0, "port is missing")
	complain(slices.Contains([]State{Ready, Draining, Unhealthy}, i.State), "state %.40q is none of ready, draining, unhealthy", i.State)
	complain(i.Weight >= 0 && i.Weight <= 256, "weight %d is outside 0 to 256", i.Weight)
	complain(i.Mode == HTTP || i.Mode == TCP, "mode %.40q is neither http nor tcp", i.Mode)
	complain(i.Scope == "" || i.Scope == ScopeNode, "scope %.40q is unknown", i.Scope)
	complain(i.Zone == "" || ValidName(i.Zone), "zone %.40q is no name", i.Zone)
	complain(validYear(i.Started), "started is outside the years 0 to 9999")
	complain(i.Container == "" || ValidID(i.Container), "container %.40q is no id", i.Container)
	complain(i.Name == "" || printable(i.Name, 256), "name has control characters or more than 256 bytes")
	complain(len(i.Hosts) <= maxHosts, "%d hosts are more than %d", len(i.Hosts), maxHosts)
	for _, h := range i.Hosts {
		errs = append(errs, validHost(h))
	}
	errs = append(errs, validPath(i.Path), validOptions(i.Options), validTags(i.Tags), validMeta(i.Meta))
	return errors.Join(errs...)
}

func validAddress(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// printable tells whether s is at most limit bytes of valid UTF-8 without control characters.
func printable(s string, limit int) bool {
	return len(s) <= limit && strings.ToValidUTF8(s, "") == s && strings.IndexFunc(s, isControl) < 0
}

// isControl also covers the two separators that some readers take for a line's end.
func isControl(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
}

func validTags(tags []string) error {
	const most = 32
	if len(tags) > most {
		return fmt.Errorf("%d tags are more than %d", len(tags), most)
	}
	for _, t := range tags {
		if t == "" || !printable(t, maxMeta) {
			return fmt.Errorf("tag %.40q is empty, has control characters or more than %d bytes", t, maxMeta)
		}
	}
	return nil
}

func validMeta(meta map[string]string) error {
	const most = 32
	if len(meta) > most {
		return fmt.Errorf("%d meta entries are more than %d", len(meta), most)
	}
	for _, k := range sortedKeys(meta) {
		if k == "" || !printable(k, maxMeta) || !printable(meta[k], maxMeta) {
			return fmt.Errorf("meta %.40q is empty, has control characters or more than %d bytes", k, maxMeta)
		}
	}
	return nil
}

func validOptions(options map[string]string) error {
	var errs []error
	for _, k := range sortedKeys(options) {
		errs = append(errs, ValidateOption(k, options[k]))
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Encode gives the registry value of a node.
func (n *Node) Encode() ([]byte, error) { return marshal(n) }

// DecodeNode reads what a node tells about itself.
func DecodeNode(name string, b []byte) (Node, error) {
	n := Node{}
	if err := json.Unmarshal(b, &n); err != nil {
		return Node{}, fmt.Errorf("the value is not the JSON of a node: %w", err)
	}
	for _, s := range []string{n.Agent, n.Machine, n.Boot, n.Address, n.Version} {
		if !printable(s, 256) {
			return Node{}, errors.New("a field has control characters or more than 256 bytes")
		}
	}
	n.Name = name
	return n, nil
}
