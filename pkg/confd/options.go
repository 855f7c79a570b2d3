package confd

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/BurntSushi/toml"
)

// Options are what a confd.toml says of how resources are served.
type Options struct {
	Prefix   string `toml:"prefix"`
	Noop     bool   `toml:"noop"`
	SyncOnly bool   `toml:"sync-only"`
	Keyring  string `toml:"secret_keyring"`
}

// over are these options, and others where these say nothing.
func (o Options) over(others Options) Options {
	return Options{
		Prefix: cmp.Or(o.Prefix, others.Prefix), Keyring: cmp.Or(o.Keyring, others.Keyring),
		Noop: o.Noop || others.Noop, SyncOnly: o.SyncOnly || others.SyncOnly,
	}
}

// access is what a confd.toml says beside that: of the directory, the registry, times and logs. The agent has
// settings of its own for these; confd's command line has not, see [Line].
type access struct {
	ConfDir   string `toml:"confdir"`
	Interval  int    `toml:"interval"`
	Watch     bool   `toml:"watch"`
	LogLevel  string `toml:"log-level"`
	LogFormat string `toml:"log-format"`
	Backend
	Nodes        []string `toml:"nodes"`
	Scheme       string   `toml:"scheme"`
	SRVDomain    string   `toml:"srv_domain"`
	SRVRecord    string   `toml:"srv_record"`
	ClientCAKeys string   `toml:"client_cakeys"`
	ClientCert   string   `toml:"client_cert"`
	ClientKey    string   `toml:"client_key"`
	BasicAuth    bool     `toml:"basic_auth"`
	Username     string   `toml:"username"`
	Password     string   `toml:"password"`

	// Later versions have these as well.
	FailureMode   string `toml:"failure_mode"`
	Patience      limit  `toml:"backend_timeout"`
	CheckLimit    limit  `toml:"check_cmd_timeout"`
	ReloadLimit   limit  `toml:"reload_cmd_timeout"`
	Debounce      limit  `toml:"debounce"`
	BatchInterval limit  `toml:"batch_interval"`
}

// parseOptions reads a confd.toml. What it says and nobody acts on is a note; so is what it says of the
// registry, unless that was acted on already.
func parseOptions(text string, accessed bool) (Options, []string, error) {
	var o struct {
		Options
		ConfDir      string `toml:"confdir"`   // the directory itself, and so without a meaning
		SyncOnlyLate bool   `toml:"sync_only"` // what later versions of confd call it
	}
	meta, err := decodeConfig(text, &o)
	if err != nil {
		return Options{}, nil, err
	}
	o.SyncOnly = o.SyncOnly || o.SyncOnlyLate
	notes := undecoded(meta)
	if accessed {
		other, err := decodeConfig(text, &access{})
		if err != nil {
			return Options{}, nil, err
		}
		unknown := undecoded(other)
		notes = slices.DeleteFunc(notes, func(name string) bool { return !slices.Contains(unknown, name) })
	}
	return o.Options, notes, nil
}

func decodeConfig(text string, to any) (toml.MetaData, error) {
	if len(text) > largest {
		return toml.MetaData{}, fmt.Errorf("confd.toml: %d bytes: it has at most %d", len(text), largest)
	}
	meta, err := toml.Decode(text, to)
	if err != nil {
		return meta, fmt.Errorf("confd.toml: %w", located(err))
	}
	return meta, nil
}
