package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sidekick-proxy/sidekick/pkg/convention"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// envPrefix is what the environment variable of every setting begins with.
const envPrefix = "SIDEKICK_"

// Modes of --haproxy, and the registry that lives in the agent.
const (
	haproxyManaged  = "managed"
	haproxyExternal = "external"
	off             = "off"
	embeddedURL     = "embedded"
)

// settings holds every setting. Each has a flag, an environment variable and a key in the
// configuration file; one table, [newSettings], declares them all.
type settings struct {
	all    *pflag.FlagSet
	config string

	registry             string
	registryCA           string
	registryCert         string
	registryKey          string
	registryUser         string
	registryPasswordFile string
	registryInFile       bool // the configuration file gives it, so its hosts may change there
	prefix               string
	ttl, exitTTL         time.Duration

	node, advertise, zone string
	nodeGiven             bool // node is not derived from the host's name

	docker, expose, conventions string
	servicesDir                 string

	template string
	set      map[string]string

	confdDir, confdPrefix string

	haproxy, haproxyBin, haproxyConfig        string
	haproxyMasterSocket, haproxyRuntimeSocket string
	httpListen, httpsListen, statsListen      string
	certs                                     string
	listenPorts, proxyCheck                   string

	settle, settleMax, reloadInterval time.Duration
	keepStale, keepEmpty, maxCacheAge time.Duration

	admin, stateDir, user, logLevel, logFormat string
}

// newSettings returns the settings with their defaults.
func newSettings() *settings {
	s := &settings{all: pflag.NewFlagSet("settings", pflag.ContinueOnError)}
	f := s.all
	f.StringVar(&s.config, "config", "", "YAML file with these settings, by their flags' names")

	f.StringVar(&s.registry, "registry", "", "where services are registered: `etcd://h1:2379,h2:2379` (etcds:// for TLS), etcd+srv://DOMAIN (etcds+srv:// for TLS alone) to look the hosts up in DNS, or \"embedded\" for an etcd inside the agent, for one host")
	f.StringVar(&s.registryCA, "registry-ca", "", "`file` of the authorities that signed the registry's certificate")
	f.StringVar(&s.registryCert, "registry-cert", "", "`file` of this host's certificate for the registry")
	f.StringVar(&s.registryKey, "registry-key", "", "`file` of that certificate's key")
	f.StringVar(&s.registryUser, "registry-user", "", "user `name` at the registry")
	f.StringVar(&s.registryPasswordFile, "registry-password-file", "", "`file` that holds that user's password")
	f.StringVar(&s.prefix, "prefix", "/sidekick", "what all keys in the registry begin with")
	f.DurationVar(&s.ttl, "ttl", 15*time.Second, "after which a dead host's entries leave the registry")
	f.DurationVar(&s.exitTTL, "exit-ttl", time.Minute, "how long entries outlive a clean exit, so that an upgrade goes unseen; 0 removes them at once")

	f.StringVar(&s.node, "node", "", "stable `name` of this host in the cluster (default: the host name)")
	f.StringVar(&s.advertise, "advertise", "", "`address` under which other hosts reach this host's published ports (default: the source address of the route to the registry, else of the default route)")
	f.StringVar(&s.zone, "zone", "", "`name` of this host's locality")

	f.StringVar(&s.docker, "docker", "", "engine, as in DOCKER_HOST, whose default this is; \"off\" registers no containers")
	f.StringVar(&s.expose, "expose", "labelled", "which containers are registered: \"labelled\" or \"all\"")
	f.StringVar(&s.conventions, "conventions", convention.Sidekick, "`LIST` of whose labels and variables register containers: "+strings.Join(convention.Names(), ", ")+"; earlier ones count first")
	f.StringVar(&s.servicesDir, "services-dir", "", "`directory` of YAML files with instances that are no containers; a change is taken up at once")

	f.StringVar(&s.template, "template", "", "`file` of the HAProxy template (default: the built-in one); a change is taken up at once")
	mapVar(f, &s.set, "set", "`KEY=VALUE` for the template; may be repeated")

	f.StringVar(&s.confdDir, "confd-dir", "", "`directory` in confd's format (conf.d, templates) to serve as well; a change is taken up at once")
	f.StringVar(&s.confdPrefix, "confd-prefix", "", "`PREFIX` of its keys, in the place of those in its files")

	f.StringVar(&s.haproxy, "haproxy", haproxyManaged, "\"managed\" (a child of the agent), \"external\" (reached by its master socket) or \"off\"")
	f.StringVar(&s.haproxyBin, "haproxy-bin", "haproxy", "HAProxy's `program`")
	f.StringVar(&s.haproxyConfig, "haproxy-config", "/run/sidekick/haproxy.cfg", "`file` that HAProxy reads")
	f.StringVar(&s.haproxyMasterSocket, "haproxy-master-socket", "/run/sidekick/master.sock", "`socket` of HAProxy's master")
	f.StringVar(&s.haproxyRuntimeSocket, "haproxy-runtime-socket", "/run/sidekick/haproxy.sock", "`socket` of HAProxy's runtime API")
	s.ofListeners(f)

	f.DurationVar(&s.settle, "settle", 10*time.Millisecond, "quiet time that ends a burst of changes; a lone change is not delayed")
	f.DurationVar(&s.settleMax, "settle-max", 250*time.Millisecond, "longest time that a burst holds changes back")
	f.DurationVar(&s.reloadInterval, "reload-interval", time.Second, "least time between two reloads of HAProxy; after an outage of the registry the first waits for a random part of it")
	f.DurationVar(&s.keepStale, "keep-stale", 10*time.Minute, "how long instances stay while their addresses answer that the registry lost along with many nodes, or when it was replaced; 0 believes it in everything")
	f.DurationVar(&s.keepEmpty, "keep-empty", time.Hour, "how long a service without instances stays, answering 503")
	f.DurationVar(&s.maxCacheAge, "max-cache-age", 24*time.Hour, "age from which the catalog on disk is not used any more")

	s.ofProcess(f)
	return s
}

// ofListeners declares where and how the built-in template listens and checks.
func (s *settings) ofListeners(f *pflag.FlagSet) {
	f.StringVar(&s.httpListen, "http-listen", ":80", "`ADDR:PORT` for HTTP in the built-in template")
	f.StringVar(&s.httpsListen, "https-listen", ":443", "`ADDR:PORT` for HTTPS and for TLS that is passed through in the built-in template, or \"off\"; nothing listens there without --certs or such a service")
	f.StringVar(&s.certs, "certs", "", "`directory` of certificates for HTTPS, each with its key: NAME.pem, NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem; a change is taken up at once")
	f.StringVar(&s.statsListen, "stats-listen", "127.0.0.1:8405", "`ADDR:PORT` for HAProxy's statistics and metrics in the built-in template")
	f.StringVar(&s.listenPorts, "listen-ports", "1024-65535", "ports that sidekick.listen may ask for, `LOW-HIGH`")
	f.StringVar(&s.proxyCheck, "proxy-check", string(render.ProxyCheckAuto), "whether HAProxy checks servers too, by slow TCP connections: \"on\", \"off\", or \"auto\": on up to 2,000 servers, decided at the start and when services come or go")
}

// mapVar declares a map that is empty unless it is given.
func mapVar(f *pflag.FlagSet, to *map[string]string, name, usage string) {
	f.StringToStringVar(to, name, nil, usage)
	f.Lookup(name).DefValue = "" // else help shows "[]"
}

// ofProcess declares the settings of the agent's own process.
func (s *settings) ofProcess(f *pflag.FlagSet) {
	f.StringVar(&s.admin, "admin", "127.0.0.1:7070", "`ADDR:PORT` for health, metrics and API, or \"off\"")
	f.StringVar(&s.stateDir, "state-dir", "/var/lib/sidekick", "`directory` for identity, last good catalog, embedded etcd")
	f.StringVar(&s.user, "user", "", "`name` of the user to become if started as root, with the group of the engine's socket and the right to bind HAProxy's ports")
	f.StringVar(&s.logLevel, "log-level", "info", "\"debug\", \"info\", \"warn\" or \"error\"")
	f.StringVar(&s.logFormat, "log-format", "auto", "\"text\", \"json\", or \"auto\": text on a terminal, JSON elsewhere")
}

// Groups of settings that commands have in common.
var (
	registrySettings = []string{"registry", "registry-ca", "registry-cert", "registry-key", "registry-user", "registry-password-file", "prefix"}
	templateSettings = []string{"node", "zone", "template", "set", "http-listen", "https-listen", "certs", "stats-listen", "listen-ports", "proxy-check", "haproxy-bin", "haproxy-config", "haproxy-runtime-socket"}
	logSettings      = []string{"log-level", "log-format"}
)

// offer gives cmd the flags of the named settings, and --config.
func (s *settings) offer(cmd *cobra.Command, names ...[]string) {
	for _, name := range slices.Concat([]string{"config"}, slices.Concat(names...)) {
		cmd.Flags().AddFlag(s.all.Lookup(name))
	}
}

// offerAll gives cmd a flag for every setting.
func (s *settings) offerAll(cmd *cobra.Command) { cmd.Flags().AddFlagSet(s.all) }

// load completes what the flags said by the environment and the configuration file, in that order,
// and checks the whole. It reports all faults at once.
func (s *settings) load(environ []string) error {
	if err := errors.Join(s.loadEnvironment(environ), s.loadFile(), s.validate()); err != nil {
		return usageError{err}
	}
	return nil
}

// envName is the environment variable of the setting.
func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

func (s *settings) loadEnvironment(environ []string) error {
	names := map[string]string{}
	s.all.VisitAll(func(f *pflag.Flag) { names[envName(f.Name)] = f.Name })
	var errs []error
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(variable, envPrefix) {
			continue
		}
		name, known := names[variable]
		if !known {
			errs = append(errs, fmt.Errorf("environment variable %s: there is no such setting%s", variable, unlike(variable, names)))
			continue
		}
		errs = append(errs, s.assign(name, text, "environment variable "+variable))
	}
	return errors.Join(errs...)
}

// closest proposes the known name that the unknown one was probably meant to be. What they have in common
// at their beginnings, such as "registry", says little: only a few letters may differ.
func closest(unknown string, names []string) string {
	best, least := "", 1+max(2, len(unknown)/6)
	for _, name := range names {
		if n := service.Distance(unknown, name); n < least || n == least && best != "" && name < best {
			best, least = name, n
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// unlike is the proposal for a variable that is like none.
func unlike(variable string, names map[string]string) string {
	return cmp.Or(closest(variable, slices.Sorted(maps.Keys(names))), "; remove it")
}

// flagNames are the names of all flags that people are told of.
func flagNames(set *pflag.FlagSet) (names []string) {
	set.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// assign sets a setting that nothing stronger has set.
func (s *settings) assign(name, text, source string) error {
	if s.all.Lookup(name).Changed {
		return nil
	}
	flag := s.all.Lookup(name)
	pairs := flag.Value.Type() == "stringToString"
	if pairs && text == "" {
		return nil // as a file of variables has it that leaves it open
	}
	err := s.all.Set(name, text)
	switch {
	case err == nil:
		return nil
	case pairs && strings.Contains(text, ","):
		err = fmt.Errorf("%w; a pair whose value has commas stands in double quotes, all of it: %s", err, `"KEY=A,B",OTHER=C`)
	}
	// A value that cannot be read leaves a zero, which would be complained about once more.
	if flag.DefValue == "" {
		return fmt.Errorf("%s: %w", source, err) // a map or text, which keeps what it had
	}
	return errors.Join(fmt.Errorf("%s: %w", source, err), flag.Value.Set(flag.DefValue))
}

func (s *settings) loadFile() error {
	if s.config == "" {
		return nil
	}
	text, err := os.ReadFile(s.config)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return fmt.Errorf("--config %s: not YAML: %s", s.config, strings.TrimSpace(err.Error()))
	}
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var errs []error
	for _, key := range keys {
		source := fmt.Sprintf("%s: %s", s.config, key)
		if s.all.Lookup(key) == nil || key == "config" {
			errs = append(errs, fmt.Errorf("%s: there is no such setting%s", source, closest(key, flagNames(s.all))))
			continue
		}
		text, err := scalar(values[key])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", source, err))
			continue
		}
		s.registryInFile = s.registryInFile || key == "registry" && !s.all.Lookup(key).Changed
		errs = append(errs, s.assign(key, text, source))
	}
	return errors.Join(errs...)
}

// scalar writes a YAML value as its flag would be given: a map as KEY=VALUE,….
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string, bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case map[string]any:
		return pairs(v)
	default:
		return "", errors.New("a list does not fit; write text, a number or a map")
	}
}

// pairs writes a map as KEY=VALUE,…, quoted as the flag's own reader takes it.
func pairs(values map[string]any) (string, error) {
	list := make([]string, 0, len(values))
	for key, value := range values {
		if _, nested := value.(map[string]any); nested {
			return "", fmt.Errorf("%s: a map within a map does not fit", key)
		}
		text, err := scalar(value)
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		list = append(list, key+"="+text)
	}
	slices.Sort(list)
	var line strings.Builder
	w := csv.NewWriter(&line)
	if err := w.Write(list); err != nil {
		return "", err
	}
	w.Flush()
	return strings.TrimSuffix(line.String(), "\n"), w.Error()
}

// validate checks each setting by itself and fills in the defaults that depend on the host.
func (s *settings) validate() error {
	var errs []error
	oneOf := func(name, got string, valid ...string) {
		if !slices.Contains(valid, got) {
			errs = append(errs, fmt.Errorf("--%s %q: must be one of %s", name, got, strings.Join(valid, ", ")))
		}
	}
	oneOf("haproxy", s.haproxy, haproxyManaged, haproxyExternal, off)
	oneOf("proxy-check", s.proxyCheck, string(render.ProxyCheckAuto), string(render.ProxyCheckOn), string(render.ProxyCheckOff))
	oneOf("expose", s.expose, "labelled", "all")
	oneOf("log-level", s.logLevel, "debug", "info", "warn", "error")
	oneOf("log-format", s.logFormat, "auto", "text", "json")
	if _, err := convention.Parse(s.conventions); err != nil {
		errs = append(errs, fmt.Errorf("--conventions %q: %w", s.conventions, err))
	}
	_, choices := render.ChoicesOf(s.set)
	errs = append(errs, choices, s.validateNames(), s.validateAddresses(), s.validateTimes())
	return errors.Join(errs...)
}

// conventionsOn reads --conventions.
func (s *settings) conventionsOn() []string {
	names, _ := convention.Parse(s.conventions) // validate has refused a bad one
	return names
}

func (s *settings) validateNames() error {
	var errs []error
	s.nodeGiven = s.node != ""
	if !s.nodeGiven {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("--node: this host has no name (%w); give one", err))
		}
		s.node = service.DeriveName(host)
	}
	for name, got := range map[string]string{"node": s.node, "zone": s.zone} {
		if got != "" && !service.ValidName(got) {
			errs = append(errs, fmt.Errorf("--%s %q: use lower-case letters, digits and inner hyphens, at most 63", name, got))
		}
	}
	if !strings.HasPrefix(s.prefix, "/") || strings.ContainsFunc(s.prefix, func(r rune) bool { return r <= ' ' }) {
		errs = append(errs, fmt.Errorf("--prefix %q: must begin with a slash and have no blanks", s.prefix))
	}
	s.prefix = strings.TrimRight(s.prefix, "/")
	return errors.Join(errs...)
}

func (s *settings) validateAddresses() error {
	var errs []error
	if s.advertise != "" {
		if a, err := netip.ParseAddr(s.advertise); err != nil || a.IsUnspecified() {
			errs = append(errs, fmt.Errorf("--advertise %q: must be an IP address of this host", s.advertise))
		}
	}
	errs = append(errs, listenAddress("http-listen", s.httpListen), listenAddress("stats-listen", s.statsListen))
	for name, address := range map[string]string{"admin": s.admin, "https-listen": s.httpsListen} {
		if address != off {
			errs = append(errs, listenAddress(name, address))
		}
	}
	if _, _, err := s.portRange(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.validateClashes(), s.absolutePaths())
	return errors.Join(errs...)
}

// validateClashes refuses to listen twice at one place: HAProxy would take both, and requests would
// go to one or the other by chance.
func (s *settings) validateClashes() error {
	listens := []struct{ name, address string }{
		{"http-listen", s.httpListen}, {"https-listen", s.httpsListen}, {"stats-listen", s.statsListen}, {"admin", s.admin},
	}
	var errs []error
	for i, a := range listens {
		for _, b := range listens[i+1:] {
			if clash(a.address, b.address) {
				errs = append(errs, fmt.Errorf("--%s %s and --%s %s: two listeners cannot share a port; choose another for one", a.name, a.address, b.name, b.address))
			}
		}
	}
	return errors.Join(errs...)
}

// clash tells whether two listeners would meet at one port.
func clash(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	everywhere := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	return hostA == hostB || everywhere(hostA) || everywhere(hostB)
}

// absolutePaths makes the paths that HAProxy reads again at each reload independent of where it was
// started.
func (s *settings) absolutePaths() error {
	var errs []error
	for _, path := range []*string{&s.haproxyConfig, &s.haproxyMasterSocket, &s.haproxyRuntimeSocket} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", *path, err))
			continue
		}
		*path = absolute
	}
	return errors.Join(errs...)
}

// listenAddress checks ADDR:PORT or :PORT.
func listenAddress(name, text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("--%s %q: must be ADDR:PORT or :PORT", name, text)
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("--%s %q: %q is no IP address", name, text, host)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("--%s %q: %q is no port (1 to 65535)", name, text, port)
	}
	return nil
}

// portRange reads --listen-ports.
func (s *settings) portRange() (low, high uint16, err error) {
	a, b, ok := strings.Cut(s.listenPorts, "-")
	l, errLow := strconv.ParseUint(a, 10, 16)
	h, errHigh := strconv.ParseUint(b, 10, 16)
	if !ok || errLow != nil || errHigh != nil || l == 0 || l > h {
		return 0, 0, fmt.Errorf("--listen-ports %q: must be LOW-HIGH within 1-65535", s.listenPorts)
	}
	return uint16(l), uint16(h), nil
}

func (s *settings) validateTimes() error {
	var errs []error
	atLeast := func(name string, got, least time.Duration) {
		if got < least {
			errs = append(errs, fmt.Errorf("--%s %s: must be at least %s", name, got, least))
		}
	}
	atLeast("ttl", s.ttl, 2*time.Second)
	atLeast("exit-ttl", s.exitTTL, 0)
	atLeast("settle", s.settle, 0)
	atLeast("settle-max", s.settleMax, s.settle)
	atLeast("reload-interval", s.reloadInterval, 0)
	atLeast("keep-stale", s.keepStale, 0)
	atLeast("keep-empty", s.keepEmpty, 0)
	atLeast("max-cache-age", s.maxCacheAge, 0)
	return errors.Join(errs...)
}
