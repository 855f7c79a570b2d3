package etcd

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authority gets the token that goes with each request of a user, and a new one when the cluster
// does not take the old one any more. The client has a mechanism of its own; it connects before the
// client exists, so that an agent could not start without its cluster, and it checks the password
// again for each stream, which is slow on purpose and would be paid at each renewal of a lease.
//
// It is safe for concurrent use.
type authority struct {
	user     string
	password func() (string, error) // may be another one each time
	client   *clientv3.Client
	token    atomic.Pointer[string] // nil while there is none
	asking   chan struct{}          // holds a value while a token is asked for
}

func newAuthority(user string, password func() (string, error)) *authority {
	return &authority{user: user, password: password, asking: make(chan struct{}, 1)}
}

// options are what makes a connection use the authority: none without a user.
func (a *authority) options() []grpc.DialOption {
	if a.user == "" {
		return nil
	}
	return []grpc.DialOption{
		grpc.WithPerRPCCredentials(a),
		grpc.WithChainUnaryInterceptor(a.unary),
		grpc.WithChainStreamInterceptor(a.stream),
	}
}

// asksForToken marks the context of the one request that goes without a token.
type asksForToken struct{}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Whether to encrypt is the
// operator's choice of a URL.
func (a *authority) RequireTransportSecurity() bool { return false }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (a *authority) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if ctx.Value(asksForToken{}) != nil {
		return nil, nil
	}
	token, err := a.current(ctx)
	if err != nil || token == "" {
		return nil, err
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
}

// current is the token, asked for if there is none. It is "" if the cluster asks nobody for one.
func (a *authority) current(ctx context.Context) (string, error) {
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
	if t := a.token.Load(); t != nil {
		return *t, nil
	}
	token, err := a.authenticate(ctx)
	if err != nil {
		return "", err
	}
	a.token.Store(&token)
	return token, nil
}

// ready gets a token if there is none. Its errors are those that a request without one ends with.
func (a *authority) ready(ctx context.Context) error {
	if a.user == "" {
		return nil
	}
	_, err := a.current(ctx)
	if _, known := status.FromError(err); !known {
		return status.Errorf(codes.Unauthenticated, "creds failed due to error: %v", err)
	}
	return err
}

const refused = "the registry refuses the user name or the password"

func (a *authority) authenticate(ctx context.Context) (string, error) {
	const limit = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, asksForToken{}, true), limit)
	defer cancel()
	password, err := a.password()
	if err != nil {
		return "", err
	}
	resp, err := a.client.Authenticate(ctx, a.user, password)
	switch {
	case err == nil:
		return resp.Token, nil
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return "", nil
	case errors.Is(err, rpctypes.ErrAuthFailed):
		// As plain text it ends the request. With its own code the request would be repeated at once.
		return "", errors.New(refused + ": see --registry-user and --registry-password-file")
	default:
		return "", status.Errorf(codes.Unavailable, "user %s: %v", a.user, err)
	}
}

// stale tells whether the cluster refused a request for its token, and forgets it then.
func (a *authority) stale(err error) bool {
	err = rpctypes.Error(err)
	if errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrAuthOldRevision) {
		a.token.Store(nil)
		return true
	}
	return false
}

// unary repeats a request that was refused for its token once.
func (a *authority) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil && ctx.Value(asksForToken{}) == nil && a.stale(err) {
		err = invoke(ctx, method, req, reply, cc, opts...)
	}
	return err
}

// stream makes the next stream get a new token when this one was refused for its old one.
func (a *authority) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		a.stale(err)
		return nil, err
	}
	return watchedStream{s, a}, nil
}

type watchedStream struct {
	grpc.ClientStream
	a *authority
}

// RecvMsg receives, and learns from an error.
func (s watchedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.a.stale(err)
	}
	return err
}
