package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// follow sends the catalog as listed, takes changes in, and sends a catalog after each, until it
// cannot be sure any more to see every change. It never waits for its reader while the watch has
// something: the cluster keeps only so much for a slow one.
func (w *Watcher) follow(ctx context.Context, st *state, out chan<- *service.Catalog) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	// The client keeps a stream for ever whose watch ended while it was being taken up again after a
	// lost connection. Closing what holds the streams of this watch alone ends it in any case.
	stream := clientv3.NewWatcher(w.Client)
	defer stream.Close()
	defer cancel()
	watch, err := w.open(ctx, cancel, stream, st)
	if err != nil {
		return err
	}
	p := newProbe(w, st, stream)
	defer p.stop(cancel)
	newest, ready := st.builder.Catalog(st.revision), out
	for err == nil {
		select {
		case resp, ok := <-watch:
			var changed bool
			if changed, err = w.drain(st, watch, resp, ok); changed {
				newest, ready = st.builder.Catalog(st.revision), out
			}
			p.heard()
		case ready <- newest:
			ready = nil
			st.builder.Taken()
		case <-p.timer.C:
			err = p.next(ctx)
		case <-p.count.C:
			p.look(ctx, true)
		case h := <-p.headers:
			err = p.judge(ctx, h)
		case again := <-st.back:
			p.hurry(again)
		case <-p.verify:
			err = errVerify
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

// drain takes an answer in and those that wait behind it, and tells whether they changed anything.
func (w *Watcher) drain(st *state, watch clientv3.WatchChan, resp clientv3.WatchResponse, ok bool) (changed bool, err error) {
	const most = 100 // then the reader gets its turn
	for n := 1; ; n++ {
		c, err := w.take(st, resp, ok)
		if err != nil {
			return false, err
		}
		changed = changed || c
		if len(watch) == 0 || n == most {
			break
		}
		resp, ok = <-watch
	}
	w.progressed(st)
	return changed, nil
}

// take takes one answer in.
func (w *Watcher) take(st *state, resp clientv3.WatchResponse, ok bool) (changed bool, err error) {
	if !ok {
		return false, errors.New("the watch ended")
	}
	if err := resp.Err(); err != nil {
		return false, fmt.Errorf("watch %s: %w", w.Prefix, explained(w.Client, err))
	}
	if err := st.other(resp.Header, st.revision); err != nil {
		return false, err
	}
	st.answered = true
	if len(resp.Events) > 0 && resp.Events[0].Kv.ModRevision <= st.revision {
		return false, errLate // servers before 3.5.8 may be ahead of themselves when asked for progress
	}
	for _, e := range resp.Events {
		st.revision, st.shown = e.Kv.ModRevision, e.Kv.ModRevision
		if e.Type == clientv3.EventTypeDelete {
			changed = st.builder.Drop(string(e.Kv.Key), e.Kv.ModRevision) || changed
		} else {
			changed = st.builder.Take(itemOf(e.Kv)) || changed
		}
	}
	if resp.IsProgressNotify() {
		// All up to here was sent before; an answer with events may have more behind it.
		st.revision = resp.Header.GetRevision()
	}
	return changed, nil
}

// spread is how long to wait before everything is listed again after the connection was lost. The
// watch goes on by itself meanwhile, and shows most of what may have happened to the registry; the
// list makes sure. When a registry restarts, all agents are there at once: the more they have to
// read, the more they spread.
func spread(keys int) time.Duration {
	const perKey, most = 2 * time.Millisecond, 5 * time.Minute
	return rand.N(min(time.Duration(keys+1)*perKey, most)) //nolint:gosec // spreads agents, protects nothing
}

// probe finds out whether a quiet watch is alive. First it asks the cluster to say through the watch
// how far it is; the cluster does not answer that while nothing was written since the watch began.
// Then it reads the registry's revision beside the watch: if that is known, nothing can be missing;
// if it is not, the watch must show what there is. All three take a part of Progress. Now and then it
// also compares what is known with how many keys there are, quiet or not: a watch that lost a change
// shows the next ones as if nothing was. The context
// given to its methods is the watch's own, which also names its stream.
type probe struct {
	w       *Watcher
	st      *state
	stream  clientv3.Watcher
	timer   *time.Timer
	count   *time.Timer // for the next comparison
	headers chan header
	verify  <-chan time.Time // nil while the connection was not lost
	asking  bool             // the revision is being read
	asked   bool             // the watch was asked
	behind  int64            // what the watch has to reach before the timer fires, 0 if nothing
	wg      sync.WaitGroup
}

// header is what was read beside the watch.
type header struct {
	*pb.ResponseHeader
	known  int64 // when it was asked for
	missed bool  // there are not as many keys as were known then
	err    error
}

func newProbe(w *Watcher, st *state, stream clientv3.Watcher) *probe {
	return &probe{w: w, st: st, stream: stream, timer: time.NewTimer(w.progress()), count: time.NewTimer(pauseOf(w.verify())), headers: make(chan header)}
}

func (p *probe) stop(cancel context.CancelFunc) {
	cancel()
	p.timer.Stop()
	p.count.Stop()
	p.wg.Wait()
}

// heard starts anew, because the watch has shown that it lives.
func (p *probe) heard() {
	p.asked, p.behind = false, 0
	p.timer.Reset(p.w.progress())
}

// hurry asks at once, because the connection is back. If there was one before, everything is to be
// listed again as well, a little later.
func (p *probe) hurry(again bool) {
	p.asked, p.behind = true, 0
	p.timer.Reset(0)
	if !again {
		return
	}
	p.w.back()
	if p.verify == nil {
		p.verify = time.After(spread(p.st.keys))
	}
}

// next does what is due when the timer fires.
func (p *probe) next(ctx context.Context) error {
	switch {
	case p.behind > 0:
		return fmt.Errorf("%w: it shows nothing of the revisions up to %d for %v", errSilent, p.behind, p.w.progress())
	case !p.asked:
		p.asked = true
		p.ask(ctx)
		p.timer.Reset(p.w.progress() / 5)
	default:
		p.look(ctx, false)
	}
	return nil
}

// look reads beside the watch, unless that is being done: the revision, and perhaps how many keys there
// are, which costs the server a walk over them.
func (p *probe) look(ctx context.Context, count bool) {
	if count {
		p.count.Reset(pauseOf(p.w.verify()))
	}
	if p.asking {
		return
	}
	p.asking = true
	known, keys := p.st.revision, p.st.builder.Len()
	p.wg.Go(func() {
		h := p.read(ctx, known, keys, count)
		select {
		case p.headers <- h:
		case <-ctx.Done():
		}
	})
}

// ask asks for the watch's progress. A question that cannot be put gets no answer either.
func (p *probe) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_ = p.stream.RequestProgress(ctx)
}

// read reads the registry's revision. How many keys there are says something only if that is the known
// one.
func (p *probe) read(ctx context.Context, known int64, keys int, count bool) header {
	opts := []clientv3.OpOption{clientv3.WithCountOnly()}
	if count {
		opts = append(opts, clientv3.WithPrefix())
	}
	resp, err := get(ctx, p.w.Client, service.Root(p.w.Prefix), opts)
	if err != nil {
		return header{err: fmt.Errorf("read the registry's revision: %w", err)}
	}
	missed := count && resp.Header.GetRevision() == known && resp.Count != int64(keys)
	return header{ResponseHeader: resp.Header, known: known, missed: missed}
}

// judge decides by what was read whether the watch can still be trusted. A registry that does not
// answer is no reason to give the watch up: it takes itself up again when the registry is back.
func (p *probe) judge(ctx context.Context, h header) error {
	p.asking = false
	if h.err != nil {
		p.w.failed(p.st, h.err)
		p.timer.Reset(p.w.progress() / 5)
		return nil
	}
	if err := p.st.other(h.ResponseHeader, h.known); err != nil {
		// By the time of the list it may have caught up. A watch shows the same for a moment of a member
		// that lags behind, a read does not.
		p.st.replaced = err
		return err
	}
	if h.missed {
		p.st.lost = true
		return errMissed
	}
	p.st.answered = true
	p.heard()
	if h.GetRevision() <= p.st.revision {
		p.w.progressed(p.st)
		return nil
	}
	p.behind = h.GetRevision()
	p.ask(ctx)
	return nil
}
