package haproxy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// TestForesee: what is foreseen is what the driver then does, by what the running HAProxy can.
func TestForesee(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.withOptions("    cookie X insert\n", "", "s1 "+one+" cookie a"))
		for _, c := range []struct{ name, want string }{
			{"the same", b.withOptions("    cookie X insert\n", "", "s1 "+one+" cookie a")},
			{"a comment", b.withOptions("    # a word\n    cookie X insert\n", "", "s1 "+one+" cookie a")},
			{"a weight", b.withOptions("    cookie X insert\n", "", "s1 "+one+" cookie a weight 7")},
			{"a server with a cookie", b.withOptions("    cookie X insert\n", "", "s1 "+one+" cookie a weight 7", "s2 "+one+" cookie b")},
			{"another option", b.withOptions("    cookie Y insert\n", "", "s1 "+one+" cookie a weight 7", "s2 "+one+" cookie b")},
		} {
			got, err := Foresee(t.Context(), b.cfg, files(c.want))
			if err != nil || got.Silent != nil {
				t.Fatalf("%s: %v, %v", c.name, err, got.Silent)
			}
			res := b.apply(t, c.want)
			if got.Reload != res.Reason || len(got.Commands) != res.Commands {
				t.Errorf("%s: foreseen %+v, was %+v", c.name, got, res)
			}
			if got.Same != (c.name == "the same") {
				t.Errorf("%s: same is %v", c.name, got.Same)
			}
			haproxytest.Until(t, "the file on disk to follow", func() bool {
				text, err := os.ReadFile(b.cfg.Path)
				return err == nil && string(text) == c.want
			})
		}
	})
}

// TestForeseeFiles: the set in force is found with all its files, whether wanted or not, and plain files
// under wanted names too. A HAProxy that does not answer is taken for one that can the least.
func TestForeseeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	file := func(name, text string) render.File {
		return render.File{Name: name, Blocks: []render.Block{render.NewBlock("", text)}}
	}
	const text = "defaults\n    mode http\n"
	c, err := store{path: path}.stage(render.Files{file("", text), file("gone.map", "a b\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.discard()
	if err := c.swap(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "plain.map"), []byte("c d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Foresee(t.Context(), Config{Path: path, RuntimeSocket: path + ".sock"}, render.Files{file("", text), file("new.map", ""), file("plain.map", "c d\n")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"plain.map", "gone.map"}, namesOf(got.InForce)); diff != "" {
		t.Errorf("files in force (-want +got):\n%s", diff)
	}
	if got.Same || got.Silent == nil || !strings.Contains(got.Silent.Error(), path+".sock") {
		t.Errorf("got %+v, want a difference, and the socket named", got)
	}
}
