package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxSocketPath is the longest path that a Unix socket can have on Linux.
const maxSocketPath = 107

// Config says where a server keeps its data and where it listens.
type Config struct {
	// Dir is the state directory. The data goes to "etcd" in it, and "etcd.sock" is the Unix socket
	// for clients.
	Dir string
	// ListenClient holds more addresses for clients, HOST:PORT each. They are neither encrypted nor
	// authenticated.
	ListenClient []string
	Log          logrus.FieldLogger
}

// Server is a running etcd. Its owner calls Stop.
type Server struct {
	etcd    *embed.Etcd
	socket  string
	lock    *os.File
	log     *core
	streams context.CancelFunc
}

// Start starts a server and returns it once it serves. One that holds the same directory already,
// also in another process, makes it fail.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	lock, err := hold(filepath.Join(cfg.Dir, "etcd"))
	if err != nil {
		return nil, err
	}
	// The streams' context has to outlive ctx: Stop ends them.
	streams, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{socket: filepath.Join(cfg.Dir, "etcd.sock"), lock: lock, log: newCore(cfg.Log), streams: end}
	ec, err := s.config(streams, cfg)
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	if s.etcd, err = embed.StartEtcd(ec); err != nil {
		return nil, errors.Join(fmt.Errorf("start the embedded etcd in %s: %w", cfg.Dir, err), s.release())
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// hold makes the data directory and takes its lock.
func hold(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data of the embedded etcd: %w; give a writable directory with --state-dir", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data of the embedded etcd: %w; give a writable directory with --state-dir", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written to it
		return nil, lockError(dir, err)
	}
	return lock, nil
}

// lockError says why a directory's lock could not be taken.
func lockError(dir string, err error) error {
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("an embedded etcd runs in %s already: stop that one or give this one its own --state-dir", dir)
	}
	return fmt.Errorf("data of the embedded etcd in %s cannot be locked: %w; give a directory on a file system that has locks with --state-dir", dir, err)
}

// config is the server's whole configuration. As its only member it may have quick elections: they
// let it serve at once after a start, and leases end by the second.
func (s *Server) config(streams context.Context, cfg Config) (*embed.Config, error) {
	// The peer socket is never used, but must be somewhere. It is in the directory that only we
	// can enter. The server listens on the host part of its URL: a path would be ignored, and the
	// socket become a random abstract one, open to every user.
	peer := filepath.Join(cfg.Dir, "etcd", "peer.sock")
	for _, path := range []string{s.socket, peer} {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("socket %s: its path has %d bytes, more than the %d that the system allows: give a shorter --state-dir", path, len(path), maxSocketPath)
		}
	}
	c := embed.NewConfig()
	c.Name = "sidekick"
	c.Dir = filepath.Join(cfg.Dir, "etcd", "data")
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: peer}}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: "sidekick"}}
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
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(s.log.logger())
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(endWith(streams))}
	return c, nil
}

// ready waits until the server answers clients.
func (s *Server) ready(ctx context.Context) error {
	const limit = time.Minute
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return fmt.Errorf("start the embedded etcd: %w", err)
	case <-timer.C:
		return fmt.Errorf("the embedded etcd was not ready within %v: is the disk slow or full?", limit)
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
// is on disk and the directory is free for another.
func (s *Server) Stop() error {
	s.log.silence() // closing listeners is reported as errors
	s.streams()
	s.etcd.Close()
	return s.release()
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
