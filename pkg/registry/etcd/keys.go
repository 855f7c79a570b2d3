package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keys follows keys whose meaning is not ours, wherever they are. It implements confd.Source.
type Keys struct {
	Client *clientv3.Client
	// Page is how many keys are read at once; 0 means 1,000.
	Page int
	// Progress is how often the cluster is asked whether the watch has shown everything; 0 means 10 s.
	// Asking writes nothing.
	Progress time.Duration
}

// keysState is what one run of Keys knows.
type keysState struct {
	roots    []string
	keys     map[string]string
	unsent   bool    // the reader has not got these keys yet
	revision int64   // of the list, or of what was heard since
	cluster  uint64  // whose revision it is
	shown    []int64 // by root, up to where its watch has shown everything
	behind   int64   // what all watches have been asked to show, 0 if nothing
	answered bool    // the present watch has answered
	back     chan bool
	report   func(error)
}

// heard is an answer of the watch of one root.
type heard struct {
	clientv3.WatchResponse
	root int
	open bool
}

// Run sends the complete set of the keys that are one of the roots or lie below one, as "root/…": once
// all of it was read, and after each change, until ctx is cancelled. What is sent belongs to the reader.
// report is told of each answer of the cluster, and of each failure; what was sent stays true as far as
// is known. Everything is listed again when the watch cannot be trusted any more.
func (k *Keys) Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error {
	st := &keysState{roots: roots, back: make(chan bool, 1), report: report}
	try := func(ctx context.Context) (answered bool, err error) {
		st.answered = false
		if err = k.list(ctx, st); err == nil {
			report(nil)
			err = k.follow(ctx, st, out)
		}
		return st.answered, err
	}
	return persist(ctx, k.Client, st.back, try, report)
}

// list reads all roots as they were at one revision. Nothing is changed unless all was read.
func (k *Keys) list(ctx context.Context, st *keysState) error {
	keys := map[string]string{}
	var first *pb.ResponseHeader
	for _, root := range st.roots {
		var at []clientv3.OpOption
		if first != nil {
			at = append(at, clientv3.WithRev(first.GetRevision()))
		}
		header, err := pages(ctx, k.Client, root, cmp.Or(k.Page, pageSize), func(kv keyValue) {
			if below(root, string(kv.Key)) {
				keys[string(kv.Key)] = string(kv.Value)
			}
		}, at...)
		if err != nil {
			return err
		}
		if first == nil {
			first = header
		}
	}
	st.unsent = st.unsent || st.keys == nil || !maps.Equal(keys, st.keys)
	st.keys, st.behind = keys, 0
	st.revision, st.cluster = first.GetRevision(), first.GetClusterId()
	st.shown = slices.Repeat([]int64{st.revision}, len(st.roots))
	return nil
}

// below tells whether a key is the root or lies below it: /app is none of /ap's.
func below(root, key string) bool {
	rest, ok := strings.CutPrefix(key, root)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(root, "/"))
}

// follow takes changes in and sends the keys after each, until it cannot be sure any more to see every
// change. It never waits for its reader while a watch has something.
func (k *Keys) follow(ctx context.Context, st *keysState, out chan<- map[string]string) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	stream := clientv3.NewWatcher(k.Client) // its own, closed with it: see Watcher.follow
	defer stream.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	answers := make(chan heard, 64)
	if err := k.watch(ctx, cancel, stream, st, answers, &wg); err != nil {
		return err
	}
	tick := time.NewTicker(k.progress())
	defer tick.Stop()
	var verify <-chan time.Time
	var newest map[string]string
	var err error
	changed := true
	for err == nil {
		if changed && len(answers) == 0 { // a burst is copied once
			newest, changed = maps.Clone(st.keys), false
		}
		select {
		case h := <-answers:
			var c bool
			c, err = st.take(h)
			changed, st.unsent = changed || c, st.unsent || c
		case st.reader(out, changed) <- newest:
			st.unsent = false
		case <-tick.C:
			err = k.probe(ctx, stream, st)
		case again := <-st.back:
			verify = st.verify(verify, again)
		case <-verify:
			err = errVerify
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

// reader is where the keys may go now: nowhere while it has them, or while more comes.
func (st *keysState) reader(out chan<- map[string]string, changed bool) chan<- map[string]string {
	if st.unsent && !changed {
		return out
	}
	return nil
}

// verify tells when everything is to be listed again, now that there is a connection: a little later if
// there was one before.
func (st *keysState) verify(planned <-chan time.Time, again bool) <-chan time.Time {
	if again && planned == nil {
		return time.After(spread(len(st.keys)))
	}
	return planned
}

// watch starts a watch for each root, all on one stream of their own, from the next revision on.
func (k *Keys) watch(ctx context.Context, cancel context.CancelFunc, stream clientv3.Watcher, st *keysState, answers chan<- heard, wg *sync.WaitGroup) error {
	limit := time.AfterFunc(k.progress(), cancel)
	for i, root := range st.roots {
		watch := stream.Watch(ctx, root, clientv3.WithPrefix(), clientv3.WithRev(st.revision+1),
			clientv3.WithFragment(), clientv3.WithProgressNotify())
		wg.Go(func() {
			for open := true; open; {
				h := heard{root: i}
				h.WatchResponse, open = <-watch
				h.open = open
				select {
				case answers <- h:
				case <-ctx.Done():
					open = false
				}
			}
		})
	}
	if !limit.Stop() {
		return fmt.Errorf("watch %s: no answer within %v", st.roots[0], k.progress())
	}
	return nil
}

// take takes an answer in, and tells whether it changed any key.
func (st *keysState) take(h heard) (changed bool, err error) {
	if !h.open {
		return false, errors.New("the watch ended")
	}
	if err := h.Err(); err != nil {
		return false, fmt.Errorf("watch: %w", err)
	}
	if err := st.other(h.Header, st.shown[h.root]); err != nil {
		return false, err
	}
	st.answered = true
	for _, e := range h.Events {
		st.shown[h.root] = e.Kv.ModRevision
		if below(st.roots[h.root], string(e.Kv.Key)) {
			changed = st.change(e) || changed
		}
	}
	if h.IsProgressNotify() {
		st.shown[h.root] = h.Header.GetRevision()
	}
	st.revision = max(st.revision, st.shown[h.root])
	return changed, nil
}

// change takes one event in, and tells whether it changed a key.
func (st *keysState) change(e *clientv3.Event) bool {
	key := string(e.Kv.Key)
	before, known := st.keys[key]
	if e.Type == clientv3.EventTypeDelete {
		delete(st.keys, key)
		return known
	}
	st.keys[key] = string(e.Kv.Value)
	return !known || before != string(e.Kv.Value)
}

// other tells by a header whether it comes from another registry than the known one, or from the past
// of it.
func (st *keysState) other(h *pb.ResponseHeader, revision int64) error {
	switch {
	case h.GetClusterId() != st.cluster:
		return errCluster
	case h.GetRevision() < revision:
		return errOlder
	}
	return nil
}

// probe reads the registry's revision beside the watches. If all have shown everything up to it,
// nothing can be missing; else they are asked to, and are given up if they have not by the next time.
// A registry that does not answer is no reason to give them up.
func (k *Keys) probe(ctx context.Context, stream clientv3.Watcher, st *keysState) error {
	resp, err := get(ctx, k.Client, st.roots[0], []clientv3.OpOption{clientv3.WithCountOnly()})
	if err != nil {
		st.report(fmt.Errorf("read the registry's revision: %w", err))
		return nil
	}
	if err := st.other(resp.Header, st.revision); err != nil {
		return err
	}
	shown := slices.Min(st.shown)
	if shown < st.behind {
		return fmt.Errorf("%w: it shows nothing of the revisions up to %d for %v", errSilent, st.behind, k.progress())
	}
	st.answered, st.behind = true, 0
	st.report(nil)
	if shown < resp.Header.GetRevision() {
		st.behind = resp.Header.GetRevision()
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_ = stream.RequestProgress(ctx) // a question that cannot be put gets no answer either
	}
	return nil
}

func (k *Keys) progress() time.Duration { return cmp.Or(k.Progress, 10*time.Second) }
