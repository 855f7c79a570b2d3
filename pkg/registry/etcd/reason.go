package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explained says in a user's words what is behind an error of the client, and what can be done.
func explained(c *clientv3.Client, err error) error {
	code := status.Code(err)
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w; grant this host's user the right, as in deploy/etcd.md, or give the --node that the user is for", err)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w; etcd wants to know who asks: give --registry-cert and --registry-key, or --registry-user and --registry-password-file", err)
	case code == codes.Unauthenticated:
		if _, why, ok := strings.Cut(err.Error(), "creds failed due to error: "); ok {
			return errors.New(why) // of the authority, which said all
		}
		return err
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded, code == codes.Unavailable:
		return noAnswer(c, err)
	default:
		return err
	}
}

// noAnswer names the servers that did not answer, and why as far as that is known.
func noAnswer(c *clientv3.Client, err error) error {
	from := strings.Join(c.Endpoints(), ", ")
	why := ""
	if r, ok := c.Ctx().Value(reasonsKey{}).(*reasons); ok && r.last.Load() != nil {
		why = *r.last.Load()
	}
	switch {
	case why == "":
		return fmt.Errorf("no answer from %s; is etcd up there, and can this host reach it? (%w)", from, err)
	case strings.Contains(why, "certificate required"), strings.Contains(why, "bad certificate"):
		return fmt.Errorf("no answer from %s; etcd wants a certificate that it trusts: give --registry-cert and --registry-key (%s: %w)", from, why, err)
	case strings.Contains(why, "x509: "):
		return fmt.Errorf("no answer from %s; its certificate is not trusted: give the authority that signed it with --registry-ca, and names that it holds in --registry (%s: %w)", from, why, err)
	default:
		return fmt.Errorf("no answer from %s; is etcd up there, can this host reach it, and is it etcd:// or etcds://? (%s: %w)", from, why, err)
	}
}

// reasons keeps why the client has no connection, which its errors do not say once a deadline has
// passed. The client's context carries it. It is safe for concurrent use.
type reasons struct{ last atomic.Pointer[string] }

type reasonsKey struct{}

func (r *reasons) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(r.unary), grpc.WithChainStreamInterceptor(r.stream)}
}

func (r *reasons) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	r.note(err)
	return err
}

func (r *reasons) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	r.note(err)
	return s, err
}

// note takes down what an error says of the connection. An answer, even if it is an error, says that
// there is one.
func (r *reasons) note(err error) {
	said := status.Convert(err)
	_, rest, _ := strings.Cut(said.Message(), "connection error: desc = ")
	quoted, bad := strconv.QuotedPrefix(rest)
	switch {
	case bad == nil:
		why, _ := strconv.Unquote(quoted) // as QuotedPrefix found it
		why = strings.TrimPrefix(why, "transport: ")
		r.last.Store(&why)
	case said.Code() != codes.DeadlineExceeded && said.Code() != codes.Unavailable && said.Code() != codes.Canceled:
		r.last.Store(nil)
	}
}
