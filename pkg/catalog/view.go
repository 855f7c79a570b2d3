package catalog

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/holdoff"
	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Watcher follows a registry.
type Watcher interface {
	// Run sends a complete catalog: first when all was read, then after each change. It recovers
	// from every loss by reading all again, sends nothing on a failed or partial read, and keeps the
	// identity of services that did not change. It blocks until ctx is cancelled and does not close
	// out.
	Run(ctx context.Context, out chan<- *service.Catalog) error
}

// Snapshot is the catalog that is to be in force. It is immutable.
type Snapshot struct {
	Catalog *service.Catalog
	Live    bool      // from the registry; otherwise from the copy on disk
	Saved   time.Time // when the copy was written, if it is one
	Number  uint64    // counts the snapshots of a View, from 1 on
}

// Seen says by which snapshot all that a catalog of the registry says comes into force. A catalog that says
// nothing new, but for what is asked of agents, comes into force by an earlier one.
type Seen struct {
	Catalog *service.Catalog
	Number  uint64 // of the snapshot
}

// View makes snapshots of the catalogs that a Watcher sends. Two snapshots in a row are never equal.
type View struct {
	// Settle and SettleMax gather bursts: changes that follow another within Settle are held until
	// nothing has changed for Settle, at most for SettleMax. A lone change is not delayed.
	Settle, SettleMax time.Duration
	// KeepEmpty is how long a service is kept without instances after its last one has gone. It is
	// dropped at the first change after that which brings a new service, because that one needs
	// a reload of the proxy anyway, as the dropping would.
	KeepEmpty time.Duration

	// CachePath is the file for the copy on disk; empty for none.
	CachePath string
	// MaxCacheAge is how old a copy may be to be used; 0 for any age.
	MaxCacheAge time.Duration
	// Confirmed tells when the registry last confirmed the catalog, from which on its copy ages. If
	// nil, that is whenever it is asked.
	Confirmed func() time.Time
	// Source says what the catalog is a view of, such as the prefix in the registry. A copy made
	// from another source is not used.
	Source string
	// ColdWait is how long the registry has to answer before the copy on disk is used; 0 means
	// 500 ms.
	ColdWait time.Duration

	// KeepStale is how long instances are kept at most that the registry has lost without anybody taking
	// them away; 0 believes the registry in everything. See package guard.
	KeepStale time.Duration
	// TTL is for how long a lease of an agent lasts.
	TTL time.Duration
	// Node is this host's name, and Boot says since when it runs, as its node's key does.
	Node, Boot string
	// Dial tells whether an address answers, of what was lost so; nil connects to it.
	Dial func(ctx context.Context, to netip.AddrPort) error

	// Seen is told of each catalog of the registry. It must not block, and may be nil.
	Seen func(Seen)

	Log    logrus.FieldLogger
	Report func(error) // told how reading and writing the copy on disk goes; may be nil
}

// Run takes catalogs from a Watcher and sends snapshots, until ctx is cancelled. A slow reader gets
// the newest snapshot; it never stalls the Watcher.
func (v *View) Run(ctx context.Context, in <-chan *service.Catalog, out chan<- *Snapshot) error {
	heard, kept := make(chan heard), make(chan *Snapshot)
	changed, save := make(chan *service.Catalog), make(chan *service.Catalog)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.guard(ctx, in, heard) })
	g.Go(func() error { return v.keep(ctx, heard, kept, changed) })
	g.Go(func() error { return holdoff.Run(ctx, v.Settle, v.SettleMax, kept, out) })
	g.Go(func() error { return newest.Run(ctx, changed, save) })
	g.Go(func() error { return v.save(ctx, save) })
	return g.Wait()
}

func send[T any](ctx context.Context, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cached is the copy on disk as a snapshot, or nil if there is none to use, which is logged.
func (v *View) cached() *Snapshot {
	if v.CachePath == "" {
		return nil
	}
	c, saved, err := readCopy(v.CachePath, v.Source, v.MaxCacheAge, time.Now())
	if err != nil {
		v.Log.WithError(err).Warn("nothing comes from the registry yet, and the last good catalog cannot be used")
		v.report(err)
		return nil
	}
	v.Log.WithFields(logrus.Fields{"saved": saved, "revision": c.Revision, "services": len(c.Services)}).
		Warn("nothing comes from the registry yet: the last good catalog is in force")
	return &Snapshot{Catalog: c, Saved: saved}
}

// former is the copy on disk as the catalog before the registry's first, or nil if there is none to use.
// Services that only it has, such as those of a host that comes back later than its lease lasts,
// stay without instances, and the proxy need not be reloaded twice for them. Those that the copy has as
// empty ones stay too, as if they had just become so.
func (v *View) former() *Snapshot {
	if v.CachePath == "" {
		return nil
	}
	c, saved, err := readCopy(v.CachePath, v.Source, v.MaxCacheAge, time.Now())
	if err != nil {
		return nil
	}
	return &Snapshot{Catalog: c, Saved: saved}
}

func (v *View) report(err error) {
	if v.Report != nil {
		v.Report(err)
	}
}

// same tells whether b says nothing that a does not. What is asked of agents and answered is not for the
// proxy, and does not count. It compares what is shared by identity, so that it costs no more than walks
// over lists of pointers.
func same(a, b *service.Catalog) bool {
	return slices.Equal(a.Services, b.Services) && slices.Equal(a.Nodes, b.Nodes) &&
		slices.Equal(a.Rejected, b.Rejected) && slices.Equal(a.Overrides, b.Overrides) && a.Doubts == b.Doubts
}
