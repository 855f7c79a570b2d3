package haproxy

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestStreamOfSets: while sets come faster than they are taken, the file follows, servers that left are deleted,
// and HAProxy is asked whether it is still the one that was driven (P6).
func TestStreamOfSets(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		cfg := configFor(t, t.Bin)
		cfg.Managed = true
		b := &bench{cfg: cfg, addr: haproxytest.Address(t, "127.0.0.11"), ahead: 64}
		b.run(t)
		addr := haproxytest.Server(t, "a")
		b.apply(t, b.text("", "s1 "+addr+" weight 1", "s2 "+addr))
		ctx, cancel := context.WithCancel(t.Context())
		var sender sync.WaitGroup
		sender.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case b.in <- files(b.text("", fmt.Sprintf("s1 %s weight %d", addr, 2+n%2), "s3 "+addr)):
				case <-ctx.Done():
				}
			}
		})
		defer sender.Wait()
		defer cancel()
		haproxytest.Until(t, "the file to follow", func() bool {
			text, err := os.ReadFile(b.cfg.Path)
			return err == nil && strings.Contains(string(text), "s3 ")
		})
		haproxytest.Until(t, "the server that left to be deleted", func() bool {
			live, err := b.driver.api.servers(t.Context(), b.worker(t))
			return err == nil && !strings.Contains(fmt.Sprint(live), "s2")
		})
	})
}
