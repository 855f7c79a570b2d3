package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explained says in a user's words what is behind an error of the client, and what can be done. What
// it returns is a [Problem], unless that is known already.
func explained(c *clientv3.Client, err error) error {
	var known *Problem
	if err == nil || errors.As(err, &known) {
		return err
	}
	code := status.Code(err)
	if errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded || code == codes.Unavailable {
		return noAnswer(c, err)
	}
	if _, why, ok := strings.Cut(err.Error(), "creds failed due to error: "); ok && code == codes.Unauthenticated {
		return &Problem{causeOf(why, Credentials), errors.New(why)} // of the authority, which said all
	}
	return problem(causeOf(err.Error(), Other), err)
}

// problem adds the mend of a cause.
func problem(is Cause, err error) error {
	mend := ""
	switch is {
	case NoSpace:
		mend = "etcd is full and takes no writes: compact it, defragment it, and `etcdctl alarm disarm`, as in deploy/etcd.md, section \"When etcd is full\""
	case Overloaded:
		mend = "etcd cannot keep up: see whether its disk is slow, and who else writes to it"
	case Denied:
		mend = "grant this host's user the right, as in deploy/etcd.md, or give the --node that the user is for"
	case Credentials:
		mend = "etcd wants to know who asks: give --registry-cert and --registry-key, or --registry-user and --registry-password-file"
	case NoQuorum:
		mend = leaderless
	case Unreachable, Certificate, ClientCertificate, Other: // the first three come with no answer
		return &Problem{is, err}
	}
	return &Problem{is, fmt.Errorf("%w; %s", err, mend)}
}

// leaderless is the mend of a cluster without a quorum.
const leaderless = "etcd has no leader: more than half of its members must run and reach each other; `etcdctl endpoint status` of each says which do"

// noAnswer names the servers that did not answer, and why as far as that is known.
func noAnswer(c *clientv3.Client, err error) error {
	from, why := strings.Join(c.Endpoints(), ", "), ""
	ours := (*wallet)(nil).mend()
	if conn := connectionOf(c); conn != nil {
		why, ours = conn.why.said(), conn.transport.wallet.mend()
		if from == "" && conn.domain != nil {
			return &Problem{Unreachable, fmt.Errorf("no endpoint of the registry is known: %s (%w)", conn.domain.trouble(), err)}
		}
	}
	because := fmt.Errorf("%w", err)
	if why != "" && !strings.Contains(err.Error(), why) {
		because = fmt.Errorf("%s: %w", why, err)
	}
	is := causeOf(because.Error(), Unreachable)
	switch is {
	case ClientCertificate:
		return &Problem{is, fmt.Errorf("no answer from %s; etcd wants a certificate that it trusts%s (%w)", from, ours, because)}
	case Certificate:
		return &Problem{is, fmt.Errorf("no answer from %s; its certificate is not trusted: give the authority that signed it with --registry-ca, and names that it holds in --registry (%w)", from, because)}
	case NoQuorum:
		return &Problem{is, fmt.Errorf("no answer from %s; %s (%w)", from, leaderless, because)}
	case Unreachable:
		if why == "" {
			return &Problem{is, fmt.Errorf("no answer from %s; is etcd up there, and can this host reach it? (%w)", from, because)}
		}
		return &Problem{is, fmt.Errorf("no answer from %s; is etcd up there, can this host reach it, and is it etcd:// or etcds://? (%w)", from, because)}
	default:
		return problem(is, because)
	}
}

// reasons keeps why the client has no connection, which its errors do not say once a deadline has
// passed, nor what members said that were asked in vain. It is safe for concurrent use.
type reasons struct{ last atomic.Pointer[string] }

// said is the last reason, or "" if there is a connection.
func (r *reasons) said() string {
	if why := r.last.Load(); why != nil {
		return *why
	}
	return ""
}

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
	case said.Code() == codes.Unavailable && strings.HasPrefix(said.Message(), "etcdserver: "):
		why := said.Message() // it is asked again, until the time is over and nothing is said any more
		r.last.Store(&why)
	case said.Code() != codes.DeadlineExceeded && said.Code() != codes.Unavailable && said.Code() != codes.Canceled:
		r.last.Store(nil)
	}
}
