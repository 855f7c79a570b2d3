package confd

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseResource(t *testing.T) {
	tests := map[string]struct {
		text   string
		global prefix
		want   Resource
	}{
		"the least": {
			text: "[template]\nsrc = \"a.tmpl\"\ndest = \"/a\"\n",
			want: Resource{Src: "a.tmpl", Dest: "/a", Prefix: "/", UID: -1, GID: -1},
		},
		"everything": {
			text: "[template]\nsrc = \"a.tmpl\"\ndest = \"/a\"\nprefix = \"app\"\nkeys = [\n  \"/b\",\n  \"c/\",\n]\nmode = \"0640\"\nuid = 0\ngid = 7\n" +
				"owner = \"root\"\ngroup = \"adm\"\ncheck_cmd = \"true {{.src}}\"\nreload_cmd = \"true\"\n",
			want: Resource{
				Src: "a.tmpl", Dest: "/a", Prefix: "/app", Roots: []string{"/app/b", "/app/c"}, Mode: 0o640, ModeGiven: true,
				GID: 7, Owner: "root", Group: "adm", reload: "true",
			},
		},
		"a global prefix is in the place of its own": {
			text:   "[template]\nsrc = \"a\"\ndest = \"/a\"\nprefix = \"/own\"\nkeys = [\"/x\"]\n",
			global: prefix{text: "production/"},
			want:   Resource{Src: "a", Dest: "/a", Prefix: "/production", Roots: []string{"/production/x"}, UID: -1, GID: -1},
		},
		"a global prefix stands before its own": {
			text:   "[template]\nsrc = \"a\"\ndest = \"/a\"\nprefix = \"apps/own/\"\nkeys = [\"/x\"]\n",
			global: prefix{text: "production/", joined: true},
			want:   Resource{Src: "a", Dest: "/a", Prefix: "/production/apps/own", Roots: []string{"/production/apps/own/x"}, UID: -1, GID: -1},
		},
		"what later versions have": {
			text: "[template]\nsrc = \"a\"\ndest = \"/a\"\noutput_format = \"json\"\ndebounce = \"2s\"\n[backend]\nbackend = \"file\"\nfile = [\"a.yaml\"]\nfilter = \"*.yaml\"\n",
			want: Resource{
				Src: "a", Dest: "/a", Prefix: "/", UID: -1, GID: -1, format: "json", settle: 2 * time.Second,
				backend: Backend{Name: "file", Files: []string{"a.yaml"}, Filter: "*.yaml"},
			},
		},
		"keys within others": {
			text: "[template]\nsrc = \"a\"\ndest = \"/a\"\nkeys = [\"/b/c\", \"/b\", \"/b-x\", \"/b\", \"/a\", \"/b-x/y\"]\n",
			want: Resource{Src: "a", Dest: "/a", Prefix: "/", Roots: []string{"/a", "/b", "/b-x"}, UID: -1, GID: -1},
		},
		"all keys": {
			text: "[template]\nsrc = \"a\"\ndest = \"/a\"\nkeys = [\"/b\", \"/\"]\n",
			want: Resource{Src: "a", Dest: "/a", Prefix: "/", Roots: []string{"/"}, UID: -1, GID: -1},
		},
		"other cases of names": {
			text: "[Template]\nSrc = \"a\"\nDEST = \"/a\"\n",
			want: Resource{Src: "a", Dest: "/a", Prefix: "/", UID: -1, GID: -1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, notes, err := parseResource("conf.d/a.toml", tt.text, tt.global)
			if err != nil || len(notes) > 0 {
				t.Fatal(err, notes)
			}
			if (got.check != nil) != strings.Contains(tt.text, "check_cmd") {
				t.Errorf("check = %v", got.check)
			}
			got.check, tt.want.Name = nil, "conf.d/a.toml"
			if diff := cmp.Diff(*got, tt.want, cmp.AllowUnexported(Resource{})); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// What is wrong is named with the file, and with the line where the file cannot be read.
func TestParseResourceFaults(t *testing.T) {
	const good = "[template]\nsrc = \"a\"\ndest = \"/a\"\n"
	tests := map[string]struct{ text, want string }{
		"empty":            {"", "src is missing"},
		"no dest":          {"[template]\nsrc = \"a\"\n", "dest is missing"},
		"no TOML":          {"[template]\nsrc = a\n", "conf.d/a.toml: line 2, column 7: "},
		"a number as mode": {good + "mode = 420\n", "conf.d/a.toml: "},
		"a bad mode":       {good + "mode = \"rw\"\n", `mode "rw": want octal digits`},
		"too much mode":    {good + "mode = \"17777\"\n", "want octal digits"},
		"a bad check":      {good + "check_cmd = \"x {{.src\"\n", "check_cmd:1"},
		"no time":          {good + "check_cmd_timeout = \"soon\"\n", "conf.d/a.toml: "},
		"a negative time":  {good + "reload_cmd_timeout = \"-1s\"\n", "a time is not negative"},
		"another backend":  {good + "[backend]\nbackend = \"vault\"\n", "conf.d/a.toml: backend vault: keys come from etcd"},
		"no files":         {good + "[backend]\nbackend = \"file\"\n", "backend file: no file is named"},
		"a bad filter":     {good + "[backend]\nbackend = \"file\"\nfile = [\"a\"]\nfilter = \"[\"\n", "filter \"[\": syntax error"},
		"another format":   {good + "output_format = \"ini\"\n", "output_format \"ini\": want json"},
		"a separator":      {"[template]\nkeys = [\n\"/a\"\n\"/b\"\n]\n", "conf.d/a.toml: line 4"},
		"keys as text":     {good + "keys = \"/a\"\n", "conf.d/a.toml: "},
		"too long":         {good + strings.Repeat("# x\n", 20_000), "a resource file has at most"},
		"deep":             {"a = " + strings.Repeat("[", 60_000), "conf.d/a.toml: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := parseResource("conf.d/a.toml", tt.text, prefix{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	_, notes, err := parseResource("x", "[template]\nsrc = \"a\"\ndest = \"b\"\nbounce = \"2s\"\n[backend]\nbackend = \"etcd\"\nnodes = []\n", prefix{})
	if diff := cmp.Diff(notes, []string{"backend", "template.bounce"}); err != nil || diff != "" {
		t.Errorf("%v, (-got +want)\n%s", err, diff)
	}
}

// What a confd.toml says of the registry is a note, unless confd's own command line has acted on it.
func TestParseOptions(t *testing.T) {
	const text = "backend = \"etcdv3\"\nnodes = [\"http://127.0.0.1:2379\"]\nprefix = \"/p\"\nconfdir = \"/etc/confd\"\ninterval = 600\nnoop = false\nkeep-stage-file = true\n"
	for name, tt := range map[string]struct {
		more     string
		accessed bool
		want     Options
		notes    []string
	}{
		"an agent's":            {"sync-only = true\n", false, Options{Prefix: "/p", SyncOnly: true}, []string{"backend", "interval", "keep-stage-file", "nodes"}},
		"a command line's":      {"secret_keyring = \"/k\"\n", true, Options{Prefix: "/p", Keyring: "/k"}, []string{"keep-stage-file"}},
		"as later versions say": {"sync_only = true\n", true, Options{Prefix: "/p", SyncOnly: true}, []string{"keep-stage-file"}},
	} {
		got, notes, err := parseOptions(text+tt.more, tt.accessed)
		if diff := cmp.Diff(notes, tt.notes); err != nil || diff != "" || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v; notes (-got +want)\n%s", name, got, err, tt.want, diff)
		}
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]fs.FileMode{
		"0644": 0o644, "644": 0o644, "0o600": 0o600, "0": 0, "02755": 0o755 | fs.ModeSetgid, "4755": 0o755 | fs.ModeSetuid, "1777": 0o777 | fs.ModeSticky,
	} {
		if got, err := parseMode(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}

// Keys come to the template without the prefix, and only that is taken off.
func TestStore(t *testing.T) {
	for _, tt := range []struct{ prefix, key, want string }{
		{"/", "/a/b", "/a/b"},
		{"/production", "/production/a", "/a"},
		{"/production", "/production/production/a", "/production/a"},
		{"/production", "/production", "/"},
	} {
		store := (&Resource{Prefix: tt.prefix}).store(map[string]string{tt.key: "v"})
		if got, err := store.GetValue(tt.want); err != nil || got != "v" {
			t.Errorf("prefix %s, key %s: got %q, %v under %s", tt.prefix, tt.key, got, err, tt.want)
		}
	}
}

// FuzzParseResource: no file ends the agent, and what is accepted names its keys below the prefix (P7).
func FuzzParseResource(f *testing.F) {
	for _, text := range []string{
		"[template]\nsrc = \"a\"\ndest = \"/a\"\nkeys = [\"/x\", \"../y\", \"//\"]\nprefix = \"p\"\n", "[template", "[[template]]\n", "a = 1979-05-27", "[template]\nmode = '0o7'\nuid = 99999999999999999999",
		"template = {src='a',dest='b',check_cmd='{{.src}}'}", "\"\\u0000\" = 1", "[a.b.c]\nx = {y = [{z = 1}]}\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _, _ = parseOptions(text, true)
		r, _, err := parseResource("f", text, prefix{})
		if err != nil {
			return
		}
		for _, root := range r.Roots {
			if !strings.HasPrefix(root, "/") || strings.Contains(root, "//") {
				t.Errorf("%q reads %q", text, root)
			}
		}
	})
}
