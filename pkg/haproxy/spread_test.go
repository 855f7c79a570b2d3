package haproxy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestReloadsOfAFleetComeApart: after an outage of the registry each host waits for a time of its own
// before its first reload, and keeps apart from the others by the interval then. A lone reload in quiet
// times waits for nothing, and neither does the first text of a HAProxy (F12, P11).
func TestReloadsOfAFleetComeApart(t *testing.T) {
	const interval = time.Second
	tests := map[string]struct {
		told    bool          // that the registry is back
		since   time.Duration // when that was
		reload  time.Duration // when the last reload was, 0 for never
		unknown bool          // what runs
		no      bool          // interval
		from    time.Duration // the earliest reload
		spread  bool          // over the interval
	}{
		"quiet times":                     {},
		"quiet times after a reload":      {reload: interval / 4, from: interval - interval/4},
		"an outage":                       {told: true, spread: true},
		"an outage some time ago":         {told: true, since: 30 * time.Second, spread: true},
		"an outage just after a reload":   {told: true, reload: interval / 4, from: interval - interval/4, spread: true},
		"an outage a long time ago":       {told: true, since: spreadFor},
		"an outage, and a HAProxy anew":   {told: true, unknown: true},
		"an outage, and no interval":      {told: true, no: true},
		"an outage, and an old reload":    {told: true, reload: time.Hour, spread: true},
		"no outage, and no known HAProxy": {unknown: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var quarters [4]int
				for range 400 {
					d := &Driver{running: files("global\n")}
					if d.cfg.ReloadInterval = interval; tt.no {
						d.cfg.ReloadInterval = 0
					}
					if tt.unknown {
						d.running = nil
					}
					if tt.told {
						d.Spread()
						time.Sleep(tt.since)
					}
					now := time.Now()
					if tt.reload > 0 {
						d.reloaded = now.Add(-tt.reload)
					}
					first := d.nextReload()
					if again := d.nextReload(); !again.Equal(first) {
						t.Fatalf("first %v, then %v", first, again)
					}
					wait := max(0, first.Sub(now)) - tt.from
					if wait < 0 || wait >= interval || wait > 0 && !tt.spread {
						t.Fatalf("the next reload is %v late (spread: %v)", wait, tt.spread)
					}
					quarters[4*wait/interval]++
				}
				for n, count := range quarters {
					if tt.spread && count < 50 {
						t.Errorf("%d of 400 hosts reload in quarter %d of the interval", count, n)
					}
				}
			})
		})
	}
}

// TestCommandsDoNotWaitForTheFleet: while a reload waits for its time, servers change (P11).
func TestCommandsDoNotWaitForTheFleet(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.cfg.ReloadInterval = 1000 * time.Hour // a random part of it will not be over
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.send(t, b.text("", "s1 "+one))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		haproxytest.Until(t, "the first text to be in force", func() bool { return b.driver.State().Status == "in step" })
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.driver.reloaded = time.Time{} // the interval is over
		b.driver.release()
		before := b.worker(t)
		b.driver.Spread()
		b.send(t, b.text("    timeout http-request 9s\n", "s2 "+two))
		haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
		haproxytest.Until(t, "a reload to be due", func() bool {
			return strings.HasPrefix(b.driver.State().Status, "a reload is due")
		})
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
	})
}
