package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// light asks of etcd what an agent's watcher asks, on the same connection as the agent's session, and
// throws away what it is sent: a thousand whole catalogs do not fit into one machine. It reads no
// more of a message than its head.
type light struct {
	client *clientv3.Client
	seen   *arrivals

	following atomic.Int64 // the watch that is open, counted from 1 on; 0 while none is
	opened    int64
	heard     atomic.Int64 // when the watch last showed anything, in nanoseconds
	bytes     atomic.Int64
}

// quiet is after what time a watcher asks whether its watch lives.
const quiet = 10 * time.Second

// run follows until ctx is cancelled.
func (l *light) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.follow(ctx)
		l.following.Store(0)
		if errors.Is(err, errStale) {
			l.seen.newest.Store(0)
		}
		select {
		case <-time.After(20*time.Millisecond + rand.N(80*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// errStale says that what was seen is of no use: it is compacted, or of another store.
var errStale = errors.New("everything has to be listed anew")

// follow opens a watch behind what was seen, after a list if nothing was, and reads it to its end.
func (l *light) follow(ctx context.Context) error {
	if l.seen.newest.Load() == 0 {
		revision, err := l.list(ctx)
		if err != nil {
			return err
		}
		l.seen.newest.Store(revision)
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	stream, err := l.client.ActiveConnection().NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/etcdserverpb.Watch/Watch", grpc.ForceCodecV2(rawCodec{}), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	begin := service.Root(prefix)
	err = stream.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(begin), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(begin)),
		StartRevision: l.seen.newest.Load() + 1, ProgressNotify: true, Fragment: true,
	}}})
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	l.heard.Store(time.Now().UnixNano())
	asking.Go(func() { l.ask(ctx, stream) })
	for {
		var h head
		if err := stream.RecvMsg(&h); err != nil {
			return err
		}
		if err := l.take(h); err != nil {
			return err
		}
	}
}

// take takes the head of an answer in.
func (l *light) take(h head) error {
	now := time.Now()
	l.heard.Store(now.UnixNano())
	l.bytes.Add(int64(h.length))
	switch {
	case h.cancelled, h.created && h.revision < l.seen.newest.Load():
		return errStale
	case h.created:
		l.opened++
		l.following.Store(l.opened)
	case h.revision > 0:
		l.seen.arrived(h.revision, now, h.events)
	}
	return nil
}

// ask asks a watch that is quiet how far it is, and reads the revision if it does not say.
func (l *light) ask(ctx context.Context, stream grpc.ClientStream) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		silent := time.Since(time.Unix(0, l.heard.Load()))
		switch {
		case silent < quiet:
			asked = false
			timer.Reset(quiet - silent)
		case !asked:
			asked = true
			if stream.SendMsg(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}) != nil {
				return
			}
			timer.Reset(quiet / 5)
		default:
			asked = false
			if _, err := l.client.Get(ctx, service.Root(prefix), clientv3.WithCountOnly()); err == nil {
				l.heard.Store(time.Now().UnixNano())
			}
			timer.Reset(quiet)
		}
	}
}

// list reads everything in pages, as a watcher does, and returns the revision of it.
func (l *light) list(ctx context.Context) (int64, error) {
	from := []byte(service.Root(prefix))
	end := []byte(clientv3.GetPrefixRangeEnd(string(from)))
	revision, size := int64(0), int64(1000)
	for {
		var p page
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		err := l.client.ActiveConnection().Invoke(ctx, "/etcdserverpb.KV/Range",
			&pb.RangeRequest{Key: from, RangeEnd: end, Limit: size, Revision: revision}, &p, grpc.ForceCodecV2(rawCodec{}), grpc.WaitForReady(true))
		cancel()
		if err != nil {
			return 0, err
		}
		l.bytes.Add(int64(p.length))
		if revision == 0 {
			revision, size = p.revision, max(size, min(p.count/10, 10*size))
		}
		if !p.more || len(p.last) == 0 {
			return revision, nil
		}
		from = append(p.last, 0)
	}
}

// arrivals is what one agent has seen, and when, while somebody wants to know.
type arrivals struct {
	newest    atomic.Int64
	recording *atomic.Bool
	mu        sync.Mutex
	all       []arrival
}

type arrival struct {
	revision int64
	at       time.Time
}

func (a *arrivals) arrived(revision int64, at time.Time, events bool) {
	if a.newest.Load() < revision {
		a.newest.Store(revision)
	}
	if !events || !a.recording.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, arrival{revision, at})
}

// taken returns what was recorded, and forgets it.
func (a *arrivals) taken() []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// head is what is read of a watch's answer.
type head struct {
	length                     int
	revision                   int64
	created, cancelled, events bool
}

// page is what is read of a list's answer.
type page struct {
	length   int
	revision int64
	more     bool
	count    int64
	last     []byte // the last key
}

// rawCodec sends messages as they are, and reads the few fields that head and page want.
type rawCodec struct{}

// Name is that of the codec whose place it takes.
func (rawCodec) Name() string { return "proto" }

// Marshal writes a message.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	b, err := proto.Marshal(message)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal reads a head or a page.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *head:
		v.length = data.Len()
		start := make([]byte, min(v.length, 4096))
		if _, err := io.ReadFull(data.Reader(), start); err != nil {
			return err
		}
		v.read(start)
	case *page:
		v.length = data.Len()
		v.read(data.Materialize())
	default:
		return fmt.Errorf("%T is neither", v)
	}
	return nil
}

// read reads the fields before the events.
func (h *head) read(b []byte) {
	for len(b) > 0 {
		field, value, rest := next(b)
		switch field {
		case 1:
			h.revision = revisionOf(value)
		case 3:
			h.created = true
		case 4:
			h.cancelled = true
		case 11, 0:
			h.events = field == 11
			return
		}
		b = rest
	}
}

func (p *page) read(b []byte) {
	for len(b) > 0 {
		field, value, rest := next(b)
		switch field {
		case 0:
			return
		case 1:
			p.revision = revisionOf(value)
		case 2:
			if key, bytes, _ := next(value); key == 1 {
				p.last = bytes
			}
		case 3:
			p.more = true
		case 4:
			p.count = number(value)
		}
		b = rest
	}
}

// next takes a message's first field off: its number, and its bytes without their length if it has
// some. Nothing follows a field that is not whole, as the events of a head may be.
func next(b []byte) (field int, value, rest []byte) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, nil
	}
	m := protowire.ConsumeFieldValue(number, kind, b[n:])
	if m < 0 {
		return int(number), nil, nil
	}
	value = b[n : n+m]
	if kind == protowire.BytesType {
		value, _ = protowire.ConsumeBytes(value)
	}
	return int(number), value, b[n+m:]
}

// number is that of a field without bytes.
func number(value []byte) int64 {
	v, _ := protowire.ConsumeVarint(value)
	return int64(v)
}

// revisionOf reads the revision of an answer's header.
func revisionOf(b []byte) int64 {
	for len(b) > 0 {
		field, value, rest := next(b)
		if field == 3 {
			return number(value)
		}
		b = rest
	}
	return 0
}
