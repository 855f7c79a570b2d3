package confd

import (
	"fmt"

	"github.com/BurntSushi/toml"
)

// options is what a directory's confd.toml says that counts here as well.
type options struct {
	Prefix   string `toml:"prefix"`
	Noop     bool   `toml:"noop"`
	SyncOnly bool   `toml:"sync-only"`
	Keyring  string `toml:"secret_keyring"`
	ConfDir  string `toml:"confdir"` // the directory itself, and so without a meaning
}

// parseOptions reads a confd.toml. What it says of the registry, of times and of logs has its place in
// the agent's own settings, and is a note.
func parseOptions(text string) (options, []string, error) {
	if len(text) > largest {
		return options{}, nil, fmt.Errorf("confd.toml: %d bytes: it has at most %d", len(text), largest)
	}
	var o options
	meta, err := toml.Decode(text, &o)
	if err != nil {
		return options{}, nil, fmt.Errorf("confd.toml: %w", located(err))
	}
	return o, undecoded(meta), nil
}
