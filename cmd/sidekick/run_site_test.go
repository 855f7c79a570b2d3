package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// A file of users that comes, changes and is spoilt is taken up while the agent runs, and nothing is
// rendered before the folder is known: a service must not close for a moment at each start (P7).
func TestUsersAreTakenUpAtRunTime(t *testing.T) {
	users := t.TempDir()
	put := func(text string) {
		t.Helper()
		path := filepath.Join(users, "staff")
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const hash = "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"
	put("alice:" + hash)

	s := newSettings()
	s.node, s.set = "host1", map[string]string{"auth-dir": users}
	log, _ := logtest.NewNullLogger()
	stage := &renderStage{
		settings: s, log: log, passage: &passage{}, ports: &ports{held: func() []uint16 { return nil }, doubled: map[uint16]bool{}},
		state: admin.NewState("host1", "test", []admin.Stage{admin.StageRender}, func() admin.Proxy { return admin.Proxy{} }, time.Now),
	}
	b := service.NewBuilder("/p")
	b.Put("/p/v1/instances/n/1", []byte(`{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{"auth":"staff"}}`))
	snapshots, out := make(chan *catalog.Snapshot, 1), make(chan render.Files)
	snapshots <- &catalog.Snapshot{Catalog: b.Catalog(1), Live: true}
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return stage.run(ctx, group, snapshots, out) })

	next := func(what string, want ...string) {
		t.Helper()
		select {
		case files := <-out:
			text := files[0].Text()
			for _, part := range want {
				if !strings.Contains(text, part) {
					t.Errorf("%s: no %q in\n%s", what, part, text)
				}
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no text", what)
		}
	}
	next("start", "user 'alice'", "http_auth(auth_staff)")
	put("bob:" + hash)
	next("another user", "user 'bob'", "http_auth(auth_staff)")
	put("bob:spoilt")
	os.WriteFile(filepath.Join(users, "other"), []byte("carol:"+hash), 0o600)
	next("spoilt, and another file", "user 'bob'", "http_auth(auth_staff)")
	os.Remove(filepath.Join(users, "staff"))
	next("gone", "deny deny_status 503 if { always_true }")
	cancel()
	group.Wait()
}
