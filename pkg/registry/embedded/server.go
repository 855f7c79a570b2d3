package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxSocketPath is the longest path that a Unix socket can have on Linux.
const maxSocketPath = 107

// What bounds the use of the disk; a single host's registrations are a few MiB at most.
const (
	// quota is the size of the database from which writes are refused; see mendQuota.
	quota = 512 << 20
	// wasteAtStart is the free space in the database, in MiB, from which a start makes the file small. In
	// between free space is used again, which is all that churn needs.
	wasteAtStart = 32
	// snapshotEvery is after how many writes the log of writes can be dropped. A start goes through what
	// is left of it, and the server turns requests away, its own too, while that is more than 5,000.
	// Nobody has to catch up from it, so keepEntries is next to nothing.
	snapshotEvery, keepEntries = 4000, 100
	// oldFiles is how many files of the log, and of its snapshots, are kept beside those in use.
	oldFiles = 1
)

// Config says where a server keeps its data and where it listens.
type Config struct {
	// Dir is the state directory. The data goes to "etcd" in it, and "etcd.sock" is the Unix socket
	// for clients.
	Dir string
	// ListenClient holds more addresses for clients, HOST:PORT each. They are neither encrypted nor
	// authenticated.
	ListenClient []string
	// Patience is how long to wait for another server that holds Dir to end.
	Patience time.Duration
	// Quota is the size of the database in bytes from which it takes no writes until it is compacted; 0
	// is the default.
	Quota int64
	Log   logrus.FieldLogger
}

// data is where all is that an etcd keeps below a state directory.
func data(stateDir string) string { return filepath.Join(stateDir, "etcd") }

func socket(stateDir string) string { return filepath.Join(stateDir, "etcd.sock") }

// Server is a running etcd. Its owner calls Stop.
type Server struct {
	etcd    *embed.Etcd
	dir     string
	socket  string
	quota   int64
	lock    *os.File
	log     *core
	streams context.CancelFunc
	mending sync.WaitGroup
}

// Start starts a server and returns it once it serves. One that holds the same directory already,
// also in another process, makes it fail. A [Refused] is for somebody to mend. After other errors than
// those of a directory in use the process should end: what the server holds is not free for another try.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	dir := data(cfg.Dir)
	if cfg.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		cfg.Log = silent
	}
	lock, err := hold(ctx, dir, cfg.Patience)
	if err != nil {
		return nil, err
	}
	// The streams' context has to outlive ctx: Stop ends them.
	streams, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{
		dir: dir, socket: socket(cfg.Dir), quota: cmp.Or(cfg.Quota, quota),
		lock: lock, log: newCore(cfg.Log), streams: end,
	}
	ec, err := s.config(streams, cfg)
	if err != nil {
		return nil, errors.Join(Refused{err}, s.release())
	}
	if err := s.launch(ec); err != nil {
		return nil, errors.Join(err, s.release())
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.mending.Go(func() { s.mendQuota(streams) })
	return s, nil
}

// launch starts the server's goroutines.
func (s *Server) launch(ec *embed.Config) error {
	started := make(chan error, 1)
	go func() {
		var err error
		s.etcd, err = embed.StartEtcd(ec)
		started <- err
	}()
	select {
	case err := <-started:
		if err != nil {
			return explainStart(s.dir, err)
		}
		return nil
	case <-s.log.death.done:
		return explain(s.dir, s.log.death.err, true)
	}
}

// config is the server's whole configuration. As its only member it may have quick elections: they
// let it serve at once after a start, and leases end by the second.
func (s *Server) config(streams context.Context, cfg Config) (*embed.Config, error) {
	// The peer socket is never used, but must be somewhere. It is in the directory that only we
	// can enter. The server listens on the host part of its URL: a path would be ignored, and the
	// socket become a random abstract one, open to every user.
	peer := filepath.Join(s.dir, "peer.sock")
	for _, path := range []string{s.socket, peer} {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("socket %s: its path has %d bytes, more than the %d that the system allows: give a shorter --state-dir", path, len(path), maxSocketPath)
		}
	}
	c := embed.NewConfig()
	c.Name = "sidekick"
	c.Dir = filepath.Join(s.dir, "data")
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: peer}}
	// Nobody calls it, but the member's id is made of it. With etcd's own default, a snapshot can be
	// restored by `etcdctl snapshot restore` as it is.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	client := url.URL{Scheme: "unix", Path: s.socket}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	for _, addr := range cfg.ListenClient {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("listen address %q: %w; it must be HOST:PORT", addr, err)
		}
		c.ListenClientUrls = append(c.ListenClientUrls, url.URL{Scheme: "http", Host: addr})
	}
	c.TickMs, c.ElectionMs = 50, 250
	c.QuotaBackendBytes, c.BootstrapDefragThresholdMegabytes = s.quota, wasteAtStart
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotEvery, keepEntries
	c.MaxSnapFiles, c.MaxWalFiles = oldFiles, oldFiles
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(s.log.logger())
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(endWith(streams))}
	return c, nil
}

// ready waits until the server answers clients.
func (s *Server) ready(ctx context.Context) error {
	const limit = 30 * time.Second
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return fmt.Errorf("start the embedded etcd: %w", err)
	case <-s.log.death.done:
		return explain(s.dir, s.log.death.err, true)
	case <-timer.C:
		return fmt.Errorf("the embedded etcd in %s was not ready within %v: is the disk slow? If not, its log was cut off: %s", s.dir, limit, afresh)
	case <-ctx.Done():
		return ctx.Err()
	}
	// Whoever may write to the socket may write to the registry.
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return fmt.Errorf("socket of the embedded etcd: %w", err)
	}
	return nil
}

// Endpoint is the URL by which clients on this host reach the server.
func (s *Server) Endpoint() string { return "unix://" + s.socket }

// Wait blocks until the server ends by itself, which is an error, or ctx is cancelled.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.log.death.done:
		return explain(s.dir, s.log.death.err, false)
	case <-s.etcd.Server.StopNotify():
		return errors.New("the embedded etcd stopped by itself: see its messages above")
	case err, ok := <-s.etcd.Err():
		if !ok {
			return errors.New("the embedded etcd was stopped")
		}
		return fmt.Errorf("the embedded etcd ended: %w", err)
	}
}

// Stop ends the server, all its goroutines and its clients' connections. It returns when the data
// is on disk and the directory is free for another. Of a server that has died it only lets the
// directory go.
func (s *Server) Stop() error {
	s.log.silence() // closing listeners is reported as errors
	s.streams()
	if s.log.death.came() {
		return s.release()
	}
	s.mending.Wait()
	closed := make(chan struct{})
	go func() {
		s.etcd.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return s.release()
	case <-s.log.death.done: // while it wrote its last
		return errors.Join(explain(s.dir, s.log.death.err, false), s.release())
	}
}

func (s *Server) release() error {
	s.streams()
	return s.lock.Close()
}

// endWith returns an interceptor that ends all streams with ctx. The server would wait seconds for
// its clients to end their watches by themselves.
func endWith(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		both, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		err := handler(srv, endingStream{stream, both})
		if ctx.Err() != nil { // a client takes up its watch again after this code, not after "canceled"
			return status.Error(codes.Unavailable, "the server is stopping")
		}
		return err
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // what a stream's Context method returns
}

// Context is done when the stream or the server ends.
func (s endingStream) Context() context.Context { return s.ctx }
