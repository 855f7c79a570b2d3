package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Watcher follows all keys under a prefix. It implements catalog.Watcher.
type Watcher struct {
	Client *clientv3.Client
	Prefix string
	Log    logrus.FieldLogger
	// Report is told of each answer of the cluster, and of each failure; it may be nil. While all
	// is well, an answer comes little later than every Progress.
	Report func(error)
	// Back is told that the registry is back after it was away, before what has changed meanwhile is
	// sent: all agents are about to see the same. It may be nil, and must not block.
	Back func()
	// Page is how many keys are read at once; 0 means 1,000.
	Page int
	// Progress is how long the watch may be quiet before the cluster is asked whether there is
	// anything, and how long it may then be silent about what there is; 0 means 10 s. Asking
	// writes nothing.
	Progress time.Duration
	// Verify is how often the keys that are known are compared with those that the registry counts,
	// however much the watch shows; 0 means 5 minutes.
	Verify time.Duration

	seen func(revision int64) // told up to where everything is known, for tests
}

// Reasons to list again that are not failures of a request.
var (
	errSilent  = errors.New("the watch is silent")
	errVerify  = errors.New("the connection was lost meanwhile")
	errOlder   = errors.New("the registry holds an older revision than it did")
	errRewrote = errors.New("the registry holds what it did not at the revisions that are known")
	errCluster = errors.New("the registry is another cluster than it was")
	errLate    = errors.New("the watch shows what it had said to have shown already")
	errMissed  = errors.New("the registry holds other keys than the watch has shown")
)

// state is what one run of a Watcher knows.
type state struct {
	builder  *service.Builder
	revision int64  // everything up to it is in the builder
	shown    int64  // the same by what was shown; etcd before 3.5.8 may announce a revision too early
	cluster  uint64 // whose revision it is
	keys     int
	replaced error     // why the registry is known for certain to be another one than that of the revision
	lost     bool      // the watch has lost a change: what is not known need not be another registry's
	answered bool      // the present watch has answered
	failing  bool      // the last thing that was told is a failure
	logged   []Cause   // of failures since it was well
	back     chan bool // see Reconnects
}

// Run implements catalog.Watcher. It sends after every list, and after every answer of the watch
// that changed something; answers that arrive while the reader is busy become one catalog.
func (w *Watcher) Run(ctx context.Context, out chan<- *service.Catalog) error {
	st := &state{builder: service.NewBuilder(w.Prefix), back: make(chan bool, 1)}
	try := func(ctx context.Context) (answered bool, err error) {
		st.answered = false
		if err = w.list(ctx, st); err == nil {
			w.progressed(st)
			err = w.follow(ctx, st, out)
		}
		return st.answered, err
	}
	return persist(ctx, w.Client, st.back, try, func(err error) { w.failed(st, err) })
}

// failed tells of a failure, and logs it if things were well before, or were bad for other causes.
func (w *Watcher) failed(st *state, err error) {
	if w.Report != nil {
		w.Report(err)
	}
	if errors.Is(err, errOlder) || errors.Is(err, errCluster) || errors.Is(err, errRewrote) {
		w.Log.WithError(err).WithField("revision", st.revision).Info("registry is read anew") // which shows what it is
		st.failing = true
		return
	}
	cause := Other
	if known, ok := errors.AsType[*Problem](err); ok {
		cause = known.Is
	}
	if !slices.Contains(st.logged, cause) {
		st.logged = append(st.logged, cause)
		w.Log.WithError(err).WithFields(logrus.Fields{"revision": st.revision, "cause": cause}).Warn("registry cannot be followed")
	}
	st.failing = true
}

// progressed tells that all is known up to the state's revision.
func (w *Watcher) progressed(st *state) {
	if w.Report != nil {
		w.Report(nil)
	}
	if w.seen != nil {
		w.seen(st.revision)
	}
	if st.failing {
		w.Log.WithField("revision", st.revision).Info("registry is followed again")
		w.back()
	}
	st.failing, st.logged = false, nil
}

func (w *Watcher) back() {
	if w.Back != nil {
		w.Back()
	}
}

// list makes the builder hold what the registry holds. Nothing is changed unless all was read. What
// is equal stays the same in the catalogs that follow, so that even a restored registry only shows
// its differences.
func (w *Watcher) list(ctx context.Context, st *state) error {
	var items []service.Item
	header, err := pages(ctx, w.Client, service.Root(w.Prefix), cmp.Or(w.Page, pageSize), func(kv keyValue) {
		items = append(items, itemOf(kv))
	})
	if err != nil {
		return err
	}
	why := cmp.Or(st.replaced, st.other(header, st.revision))
	if why == nil && !st.lost && st.builder.Contradicts(items, st.shown) {
		why = errRewrote
	}
	if why != nil {
		w.Log.WithError(why).WithFields(logrus.Fields{"revision": header.GetRevision(), "was": st.revision}).Info("registry was replaced") // what comes of it, package guard warns of
	}
	st.builder.Relist(slices.Values(items), why != nil)
	st.revision, st.shown, st.replaced, st.lost = header.GetRevision(), header.GetRevision(), nil, false
	st.cluster, st.keys = header.GetClusterId(), len(items)
	return nil
}

// itemOf is a key as the builder takes it.
func itemOf(kv keyValue) service.Item {
	return service.Item{Key: string(kv.Key), Value: kv.Value, Created: kv.CreateRevision, Modified: kv.ModRevision, Leased: kv.Lease != 0}
}

// other tells by an answer's header whether it comes from another registry than the known one, or
// from the past of it. The revision is what was known when the question was asked.
func (st *state) other(h *pb.ResponseHeader, revision int64) error {
	switch {
	case st.revision == 0:
		return nil
	case h.GetClusterId() != st.cluster:
		return errCluster
	case h.GetRevision() < revision:
		return errOlder
	}
	return nil
}

// open starts a watch from the next revision on. Its ctx must end with it. It has the stream to itself:
// one that hangs or lost its rights must not be used again.
func (w *Watcher) open(ctx context.Context, cancel context.CancelFunc, stream clientv3.Watcher, st *state) (clientv3.WatchChan, error) {
	limit := time.AfterFunc(w.progress(), cancel)
	watch := stream.Watch(ctx, service.Root(w.Prefix), clientv3.WithPrefix(), clientv3.WithRev(st.revision+1),
		clientv3.WithFragment(), clientv3.WithProgressNotify())
	if !limit.Stop() {
		return nil, fmt.Errorf("watch %s: no answer within %v", w.Prefix, w.progress())
	}
	return watch, nil
}

func (w *Watcher) verify() time.Duration { return cmp.Or(w.Verify, 5*time.Minute) }

func (w *Watcher) progress() time.Duration { return cmp.Or(w.Progress, 10*time.Second) }
