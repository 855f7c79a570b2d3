package embedded

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// fill writes one key until the server's quota is used up.
func fill(t *testing.T, s *Server) {
	t.Helper()
	c := dial(t, s.Endpoint())
	defer c.Close()
	for range 100_000 {
		_, err := c.Put(deadline(t), "/k", strings.Repeat("v", 100<<10))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the quota was never used up")
}

// TestAServerThatIsFullOfHistoryMendsItself: nobody is there on a single host to compact, defragment and
// disarm.
func TestAServerThatIsFullOfHistoryMendsItself(t *testing.T) {
	said := &saying{}
	log := logrus.New()
	log.SetOutput(said)
	s := start(t, Config{Dir: shortDir(t), Quota: 8 << 20, Log: log})
	defer stop(t, s)
	fill(t, s)
	c := dial(t, s.Endpoint())
	until(t, "it takes writes again", func() bool { return put(t, c, "/k", "v") == nil })
	until(t, "it says so", func() bool { return strings.Contains(said.String(), "its history was forgotten") })
}

// TestAServerThatIsFullOfKeysSaysSo: what stands is not for it to delete.
func TestAServerThatIsFullOfKeysSaysSo(t *testing.T) {
	said := &saying{}
	log := logrus.New()
	log.SetOutput(said)
	s := start(t, Config{Dir: shortDir(t), Quota: 8 << 20, Log: log})
	defer stop(t, s)
	c, n := dial(t, s.Endpoint()), 0
	until(t, "it says so", func() bool { // it may find some room yet when it is full for the first time
		n++
		_, _ = c.Put(deadline(t), fmt.Sprint("/k", n), strings.Repeat("v", 100<<10)) // refused in the end
		return strings.Contains(said.String(), "of 8 MiB are keys that stand")
	})
}
