package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// follow takes changes in and sends catalogs, until it cannot be sure any more to see every change.
// It never waits for its reader while the watch has something: the cluster keeps only so much for a
// slow one.
func (w *Watcher) follow(ctx context.Context, st *state, out chan<- *service.Catalog) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key, value := streamKey(st)
	ctx = clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(ctx, key, value))
	watch, err := w.open(ctx, cancel, st)
	if err != nil {
		return err
	}
	var (
		newest *service.Catalog
		ready  chan<- *service.Catalog // nil while there is nothing to send
		verify <-chan time.Time        // nil while the connection was not lost
		asked  bool                    // and no answer yet
	)
	quiet := time.NewTimer(w.progress())
	defer quiet.Stop()
	for {
		select {
		case resp, ok := <-watch:
			changed, err := w.drain(st, watch, resp, ok)
			if err != nil {
				return err
			}
			if changed {
				newest, ready = st.builder.Catalog(st.revision), out
			}
			asked = false
			quiet.Reset(w.progress())
		case ready <- newest:
			ready = nil
		case <-quiet.C:
			if asked {
				return fmt.Errorf("%w: nothing came for %v, nor an answer to the question for progress", errSilent, 2*w.progress())
			}
			asked = w.ask(ctx)
			quiet.Reset(w.progress())
		case again := <-st.back:
			asked = w.ask(ctx)
			quiet.Reset(w.progress())
			if again && verify == nil {
				verify = time.After(spread(st.keys))
			}
		case <-verify:
			return errVerify
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain takes an answer in and all that wait behind it, and tells whether they changed anything.
func (w *Watcher) drain(st *state, watch clientv3.WatchChan, resp clientv3.WatchResponse, ok bool) (changed bool, err error) {
	const most = 100 // then the reader gets its turn
	for range most {
		c, err := w.take(st, resp, ok)
		if err != nil {
			return false, err
		}
		changed = changed || c
		if len(watch) == 0 {
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
		return false, fmt.Errorf("watch %s: %w", w.Prefix, err)
	}
	if err := st.other(resp.Header); err != nil {
		return false, err
	}
	st.answered = true
	for _, e := range resp.Events {
		st.revision = e.Kv.ModRevision
		key := string(e.Kv.Key)
		if e.Type == clientv3.EventTypeDelete {
			changed = st.builder.Delete(key) || changed
		} else {
			changed = st.builder.Put(key, e.Kv.Value) || changed
		}
	}
	if resp.IsProgressNotify() {
		// All up to here was sent before; an answer with events may have more behind it.
		st.revision = resp.Header.GetRevision()
	}
	return changed, nil
}

// ask asks the cluster how far it is. The answer comes through the watch; that none comes is for
// the caller to notice.
func (w *Watcher) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = w.Client.RequestProgress(ctx) // a question that cannot be put gets no answer either
	return true
}

// spread is how long to wait before everything is listed again after the connection was lost. The
// watch goes on by itself meanwhile, and shows most of what may have happened to the registry; the
// list makes sure. When a registry restarts, all agents are there at once: the more they have to
// read, the more they spread.
func spread(keys int) time.Duration {
	const perKey, most = 2 * time.Millisecond, 30 * time.Second
	return rand.N(min(time.Duration(keys+1)*perKey, most)) //nolint:gosec // spreads agents, protects nothing
}
