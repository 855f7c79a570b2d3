package confd

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// Line is what confd's own command line says, completed as confd does it: by its environment, and where
// that is silent by its confd.toml.
type Line struct {
	Dir, Config   string
	Options       Options // those of the line and the environment; a Server follows the file's
	JoinPrefix    bool    // as versions do that are started like this one
	Onetime, Help bool
	Version       bool
	Check         bool          // the files are looked at, and that is all
	Interval      time.Duration // after which files are made again; 0 with -watch
	FailFast      bool
	Settle        time.Duration // how long bursts are held off; 0 if it does not say
	Patience      time.Duration // for the keys, with Onetime; 0 if it does not say
	CheckLimit    time.Duration // for commands; 0 if it does not say
	ReloadLimit   time.Duration
	LogLevel      string
	LogFormat     string // "" if it does not say

	Backend       Backend  // the zero value for etcd, to which belongs what follows
	Nodes         []string // URLs, or HOST:PORT
	Record        string   // of DNS, whose targets are the nodes; "" if they are given
	Secure        bool     // that is TLS
	CA, Cert, Key string   // files
	User          string   // "" without -basic-auth
	Password      string
}

// arguments are the values behind the flags.
type arguments struct {
	Options
	access
	configFile string
	onetime    bool
	version    bool
	word       bool // the backend is one of its own
	judge      bool // the files, instead of serving them
}

// ParseLine reads the arguments that confd 0.16 is started with, or, with the backend as a word of its own,
// those of later versions.
func ParseLine(args, environ []string) (*Line, error) {
	given := arguments{}
	if err := given.parse(args, environ); errors.Is(err, flag.ErrHelp) {
		return &Line{Help: true}, nil
	} else if err != nil {
		return nil, err
	}
	all, err := given.file()
	if err != nil {
		return nil, err
	}
	if err := all.parse(args, environ); err != nil {
		return nil, err
	}
	if err := all.check(); err != nil {
		return nil, err
	}
	return all.line(given.Options), nil
}

// defaults are the values of what is not given.
func defaults() access {
	return access{ConfDir: "/etc/confd", Interval: 600, LogLevel: "info", Scheme: "http"}
}

// file returns what the confd.toml says that the arguments name. There need not be one.
func (a *arguments) file() (*arguments, error) {
	all := &arguments{access: defaults()}
	text, err := os.ReadFile(a.configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		_, err = decodeConfig(string(text), &all.access)
	}
	if err != nil {
		return nil, fmt.Errorf("-config-file: %w", err)
	}
	return all, nil
}

// parse reads the environment, and over it the arguments. What neither says stays.
func (a *arguments) parse(args, environ []string) error {
	set := a.flags()
	var errs []error
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if name := variables()[variable]; name != "" && text != "" {
			if err := set.Set(name, text); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", variable, err))
			}
		}
	}
	for len(args) > 0 {
		if err := set.Parse(args); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if args = set.Args(); len(args) > 0 { // a word: the backend
			a.Name, a.word, args = args[0], true, args[1:]
		}
	}
	return errors.Join(errs...)
}

// variables are the flags that confd's environment stands for.
func variables() map[string]string {
	return map[string]string{
		"CONFD_CONFDIR": "confdir", "CONFD_PREFIX": "prefix", "CONFD_INTERVAL": "interval", "CONFD_LOG_LEVEL": "log-level", "CONFD_LOG_FORMAT": "log-format",
		"CONFD_CLIENT_CAKEYS": "client-ca-keys", "CONFD_CLIENT_CERT": "client-cert", "CONFD_CLIENT_KEY": "client-key",
	}
}

// flags are confd's. Without one its value stays as it is.
func (a *arguments) flags() *flag.FlagSet {
	set := flag.NewFlagSet("confd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	text := func(to *string, name string) { set.StringVar(to, name, *to, "") }
	is := func(to *bool, name string) { set.BoolVar(to, name, *to, "") }
	nodes := &list{to: &a.Nodes}
	set.Var(nodes, "node", "")
	set.Var(nodes, "n", "")
	text(&a.Name, "backend")
	set.Var(&list{to: &a.Files, whole: true}, "file", "")
	text(&a.Filter, "filter")
	text(&a.ConfDir, "confdir")
	a.configFile = cmp.Or(a.configFile, "/etc/confd/confd.toml")
	text(&a.configFile, "config-file")
	text(&a.Prefix, "prefix")
	text(&a.Keyring, "secret-keyring")
	text(&a.LogLevel, "log-level")
	text(&a.LogFormat, "log-format")
	text(&a.Scheme, "scheme")
	text(&a.SRVDomain, "srv-domain")
	text(&a.SRVRecord, "srv-record")
	text(&a.ClientCAKeys, "client-ca-keys")
	text(&a.ClientCert, "client-cert")
	text(&a.ClientKey, "client-key")
	text(&a.Username, "username")
	text(&a.Password, "password")
	set.IntVar(&a.Interval, "interval", a.Interval, "")
	is(&a.BasicAuth, "basic-auth")
	is(&a.Watch, "watch")
	is(&a.onetime, "onetime")
	is(&a.Noop, "noop")
	is(&a.SyncOnly, "sync-only")
	is(&a.version, "version")
	a.later(set)
	strangers(set)
	return set
}

// later are the flags of later versions.
func (a *arguments) later(set *flag.FlagSet) {
	span := func(to *limit, name string) { set.DurationVar(&to.Duration, name, to.Duration, "") }
	span(&a.Patience, "backend-timeout")
	span(&a.CheckLimit, "check-cmd-timeout")
	span(&a.ReloadLimit, "reload-cmd-timeout")
	span(&a.Debounce, "debounce")
	span(&a.BatchInterval, "batch-interval")
	set.StringVar(&a.FailureMode, "failure-mode", a.FailureMode, "")
	set.BoolVar(&a.judge, "check-config", a.judge, "")
	set.BoolVar(&a.judge, "validate", a.judge, "")
}

// strangers are flags that have no meaning here: of other backends, of how confd reads and tries again, and
// for what is always so. Others, that somebody relies on, are refused with what takes their place.
func strangers(set *flag.FlagSet) {
	for name := range strings.FieldsSeq("auth-token auth-type app-id user-id role-id secret-id path table separator " +
		"diff-context template-cache-size template-cache-policy stat-cache-ttl dial-timeout read-timeout write-timeout " +
		"retry-max-attempts retry-base-delay retry-max-delay watch-error-backoff preflight-timeout shutdown-timeout") {
		set.String(name, "", "")
	}
	for name := range strings.FieldsSeq("keep-stage-file diff color template-cache no-template-cache") {
		set.Bool(name, false, "")
	}
	unless := func(mend string, nothing ...string) func(string) error {
		return func(text string) error {
			if slices.Contains(nothing, text) {
				return nil
			}
			return errors.New(mend)
		}
	}
	set.Func("metrics-addr", "", unless("metrics are the agent's: sidekick run --confd-dir", ""))
	set.Func("watchdog-interval", "", unless("nobody is notified: let the unit have no WatchdogSec", "0", "0s"))
	set.BoolFunc("systemd-notify", "", unless("nobody is notified: let the unit have Type=exec", "false"))
	set.BoolFunc("client-insecure", "", unless("etcd's certificate is verified: name by -client-ca-keys who signed it", "false"))
}

// list is a flag that is given once for each value, or with commas between them unless these are whole. It takes
// the place of what was known before.
type list struct {
	to    *[]string
	whole bool
	given bool
}

func (l *list) String() string { return "" }

func (l *list) Set(text string) error {
	if !l.given {
		*l.to, l.given = nil, true
	}
	if l.whole {
		*l.to = append(*l.to, text)
	} else {
		*l.to = append(*l.to, strings.Split(text, ",")...)
	}
	return nil
}

// check tells all that is wrong with the arguments.
func (a *arguments) check() error {
	var errs []error
	if err := a.Backend.check(); err != nil {
		errs = append(errs, fmt.Errorf("-%w", err))
	}
	if !slices.Contains([]string{"", "best-effort", "fail-fast"}, a.FailureMode) {
		errs = append(errs, fmt.Errorf("-failure-mode %s: must be best-effort or fail-fast", a.FailureMode))
	}
	if !slices.Contains([]string{"", "text", "json"}, a.LogFormat) {
		errs = append(errs, fmt.Errorf("-log-format %s: must be text or json", a.LogFormat))
	}
	if !slices.Contains([]string{"http", "https"}, a.Scheme) {
		errs = append(errs, fmt.Errorf("-scheme %s: must be http or https", a.Scheme))
	}
	for _, node := range a.Nodes {
		if scheme, _, has := strings.Cut(node, "://"); has && !slices.Contains([]string{"http", "https", "unix"}, scheme) {
			errs = append(errs, fmt.Errorf("-node %s: must be HOST:PORT, http://HOST:PORT or https://HOST:PORT", node))
		}
	}
	if a.Interval <= 0 {
		errs = append(errs, fmt.Errorf("-interval %d: must be a number of seconds", a.Interval))
	}
	if _, err := logrus.ParseLevel(cmp.Or(a.LogLevel, "info")); err != nil {
		errs = append(errs, fmt.Errorf("-log-level %s: must be debug, info, warn or error", a.LogLevel))
	}
	if a.BasicAuth && (a.Username == "" || a.Password == "") {
		errs = append(errs, errors.New("-basic-auth: give -username and -password as well"))
	}
	return errors.Join(errs...)
}

// line is what the arguments mean together.
func (a *arguments) line(given Options) *Line {
	l := &Line{
		Dir: a.ConfDir, Config: a.configFile, Options: given, Onetime: a.onetime, Version: a.version,
		JoinPrefix: a.word, Check: a.judge, FailFast: a.FailureMode == "fail-fast",
		Settle: max(a.Debounce.Duration, a.BatchInterval.Duration), Patience: a.Patience.Duration, CheckLimit: a.CheckLimit.Duration, ReloadLimit: a.ReloadLimit.Duration,
		LogLevel: cmp.Or(a.LogLevel, "info"), LogFormat: a.LogFormat, Nodes: a.Nodes, Record: a.SRVRecord,
		CA: a.ClientCAKeys, Cert: a.ClientCert, Key: a.ClientKey,
	}
	if a.Name == "env" || a.Name == "file" {
		l.Backend = a.Backend
	}
	if a.word { // a version that gives reloads a minute
		l.ReloadLimit = cmp.Or(l.ReloadLimit, time.Minute)
	}
	if !a.Watch {
		l.Interval = time.Duration(a.Interval) * time.Second
	}
	if l.Record == "" && a.SRVDomain != "" {
		l.Record = fmt.Sprintf("_%s._tcp.%s.", cmp.Or(a.Name, "etcdv3"), a.SRVDomain)
	}
	if len(l.Nodes) == 0 {
		l.Nodes = []string{"127.0.0.1:2379"}
	}
	if a.BasicAuth {
		l.User, l.Password = a.Username, a.Password
	}
	l.Secure = l.Record != "" && a.Scheme == "https"
	for _, node := range l.Nodes { // one that says how it is to be reached is believed
		l.Secure = l.Secure || strings.HasPrefix(node, "https://") || l.CA+l.Cert != "" && !strings.HasPrefix(node, "http://")
	}
	if abs, err := filepath.Abs(l.Config); err == nil {
		l.Config = abs
	}
	return l
}
