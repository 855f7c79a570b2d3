package catalog

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// goodCopy is the content of a copy written at that time.
func goodCopy(t *testing.T, dir string, now time.Time) []byte {
	t.Helper()
	good := filepath.Join(dir, "good")
	if err := writeCopy(good, prefix, newRegistry(t).with("web"), now); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCopyIsRefusedWithAReason(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	b := goodCopy(t, dir, now)
	catalog, sum, _ := strings.Cut(strings.TrimSuffix(string(b), "}\n"), `,"sha256":`)
	head, catalog, _ := strings.Cut(catalog, `"catalog":`)
	tests := []struct {
		name, content, source string
		at                    time.Time
		want                  string
	}{
		{"good", string(b), prefix, now.Add(time.Hour), ""},
		{"of an earlier agent", head + `"sha256":` + sum + `,"catalog":` + catalog + "}\n", prefix, now.Add(time.Hour), ""},
		{"other source", string(b), "/other", now, `of "/sidekick", not of "/other"`},
		{"too old", string(b), prefix, now.Add(25 * time.Hour), "25h0m0s old"},
		{"cut short", string(b[:len(b)/2]), prefix, now, "damaged"},
		{"one bit flipped", strings.Replace(string(b), "10.0.0.1", "10.0.0.3", 1), prefix, now, "checksum"},
		{"newer format", strings.Replace(string(b), `"version":1`, `"version":2`, 1), prefix, now, "version 2"},
		{"empty", "", prefix, now, "damaged"},
		{"not ours", `{"a":1}`, prefix, now, "version 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "copy")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := readCopy(path, tt.source, 24*time.Hour, tt.at)
			switch {
			case tt.want == "" && (err != nil || c.Service("web") == nil):
				t.Errorf("got %v, %v, want the catalog", c, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, _, err := readCopy(filepath.Join(dir, "none"), prefix, 0, now); err == nil || !strings.Contains(err.Error(), "none yet") {
		t.Errorf("without a file got %v", err)
	}
}

func TestCopyHoldsWhatTheCatalogHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy")
	i := instance("web", 1)
	i.Meta = map[string]string{"html": "<a&b>", "ü": "\u2027"}
	i.Options = map[string]string{"balance": "leastconn"}
	i.Started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := service.NewBuilder(prefix)
	v, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	n := service.Node{Name: "a", Agent: "x"}
	nv, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b.Put(i.Key(prefix), v)
	b.Put(service.NodeKey(prefix, "a"), nv)
	want := b.Catalog(7)
	if err := writeCopy(path, prefix, want, time.Now()); err != nil {
		t.Fatal(err)
	}
	got, _, err := readCopy(path, prefix, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("read back (-got +want):\n%s", diff)
	}
}

// BenchmarkCopy writes the copy of 10,000 instances, one of which has changed.
func BenchmarkCopy(b *testing.B) {
	builder := service.NewBuilder(prefix)
	put := func(n, weight int) {
		i := instance(fmt.Sprint("s", n/10), n)
		i.Weight = weight
		v, err := i.Encode()
		if err != nil {
			b.Fatal(err)
		}
		builder.Put(i.Key(prefix), v)
	}
	for n := range 10_000 {
		put(n, 100)
	}
	v := View{CachePath: filepath.Join(b.TempDir(), "copy"), Source: prefix}
	var k keeper
	weight := 0
	b.ReportAllocs()
	for b.Loop() {
		weight = (weight + 1) % 100
		put(5_000, weight)
		k.newest = builder.Catalog(1)
		if !v.keepCopy(&k) {
			b.Fatal("the copy cannot be written")
		}
	}
}

func FuzzReadCopy(f *testing.F) {
	f.Add([]byte(`{"version":1,"saved":"2026-01-01T00:00:00Z","source":"","sha256":"","catalog":{"revision":1,"items":{}}}`))
	f.Add([]byte(`{"version":1,"catalog":null}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, _, err := readCopy(path, "", 0, time.Now()); (c == nil) == (err == nil) {
			t.Errorf("got %v, %v", c, err)
		}
	})
}
