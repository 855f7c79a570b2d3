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
	Onetime, Help bool
	Version       bool
	Interval      time.Duration // after which files are made again; 0 with -watch
	LogLevel      string

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
	configFile    string
	onetime       bool
	version       bool
	keepStageFile bool
}

// ParseLine reads the arguments that confd 0.16 is started with, or, with the backend as a word of its own,
// those of later versions. Of the backends there is etcd's.
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
	return access{ConfDir: "/etc/confd", Interval: 600, LogLevel: "info", Backend: "etcdv3", Scheme: "http"}
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
			a.Backend, args = args[0], args[1:]
		}
	}
	return errors.Join(errs...)
}

// variables are the flags that confd's environment stands for.
func variables() map[string]string {
	return map[string]string{
		"CONFD_CONFDIR": "confdir", "CONFD_PREFIX": "prefix", "CONFD_INTERVAL": "interval", "CONFD_LOG_LEVEL": "log-level",
		"CONFD_CLIENT_CAKEYS": "client-ca-keys", "CONFD_CLIENT_CERT": "client-cert", "CONFD_CLIENT_KEY": "client-key",
	}
}

// flags are confd's, as far as they are about etcd. Without one its value stays as it is.
func (a *arguments) flags() *flag.FlagSet {
	set := flag.NewFlagSet("confd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	text := func(to *string, name string) { set.StringVar(to, name, *to, "") }
	is := func(to *bool, name string) { set.BoolVar(to, name, *to, "") }
	nodes := &list{to: &a.Nodes}
	set.Var(nodes, "node", "")
	set.Var(nodes, "n", "")
	text(&a.Backend, "backend")
	text(&a.ConfDir, "confdir")
	a.configFile = cmp.Or(a.configFile, "/etc/confd/confd.toml")
	text(&a.configFile, "config-file")
	text(&a.Prefix, "prefix")
	text(&a.Keyring, "secret-keyring")
	text(&a.LogLevel, "log-level")
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
	is(&a.keepStageFile, "keep-stage-file") // a refused text is told with the command's output
	is(&a.version, "version")
	return set
}

// list is a flag that is given once for each value. It takes the place of what was known before.
type list struct {
	to    *[]string
	given bool
}

func (l *list) String() string { return "" }

func (l *list) Set(text string) error {
	if !l.given {
		*l.to, l.given = nil, true
	}
	*l.to = append(*l.to, strings.Split(text, ",")...)
	return nil
}

// check tells all that is wrong with the arguments.
func (a *arguments) check() error {
	var errs []error
	if !slices.Contains([]string{"etcd", "etcdv3"}, a.Backend) {
		errs = append(errs, fmt.Errorf("-backend %s: keys come from etcd here, by its v3 API: give etcdv3", a.Backend))
	}
	if !slices.Contains([]string{"http", "https"}, a.Scheme) {
		errs = append(errs, fmt.Errorf("-scheme %s: must be http or https", a.Scheme))
	}
	if a.Interval <= 0 {
		errs = append(errs, fmt.Errorf("-interval %d: must be a number of seconds", a.Interval))
	}
	if _, err := logrus.ParseLevel(a.LogLevel); err != nil {
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
		LogLevel: a.LogLevel, Nodes: a.Nodes, Record: a.SRVRecord,
		CA: a.ClientCAKeys, Cert: a.ClientCert, Key: a.ClientKey,
	}
	if !a.Watch {
		l.Interval = time.Duration(a.Interval) * time.Second
	}
	if l.Record == "" && a.SRVDomain != "" {
		l.Record = fmt.Sprintf("_%s._tcp.%s.", a.Backend, a.SRVDomain)
	}
	if len(l.Nodes) == 0 {
		l.Nodes = []string{"127.0.0.1:2379"}
	}
	if a.BasicAuth {
		l.User, l.Password = a.Username, a.Password
	}
	https := func(node string) bool { return strings.HasPrefix(node, "https://") }
	l.Secure = l.CA+l.Cert != "" || slices.ContainsFunc(l.Nodes, https) || l.Record != "" && a.Scheme == "https"
	if abs, err := filepath.Abs(l.Config); err == nil {
		l.Config = abs
	}
	return l
}
