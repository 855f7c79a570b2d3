package render_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	health_v1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflection_v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/templates"
)

// TestWebSockets: WebSockets come through, also to servers that are spoken to in HTTP/2 otherwise; they live on
// when servers come and go, that they are on too, and over a reload (P8, F10).
func TestWebSockets(t *testing.T) {
	inTLS := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("a.test")}}
	for name, c := range map[string]struct {
		options string
		server  speaking
	}{
		"plain":         {``, speaking{}},
		"HTTP/2":        {`"h2":"true",`, speaking{h1: true, h2: true}},
		"TLS":           {`"tls":"server",`, speaking{tls: inTLS}},
		"HTTP/2 in TLS": {`"tls":"server","h2":"true",`, speaking{tls: inTLS, h1: true, h2: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for frames most of the time
			haproxytest.Each(t, func(t haproxytest.T) {
				var ledger load.Ledger
				one, two := c.server.start(t, load.Handler("one", &ledger)), c.server.start(t, load.Handler("two", &ledger))
				s := newSite(t, render.ProxyCheckOff, nil)
				rest := options(c.options + `"drain":"5m"`)
				s.serve(rest, one)
				held := load.Start(t.Context(), load.Options{Target: s.addr, Workers: 3, Kinds: []load.Kind{{WebSocket: true}}})
				more := func(on, when string) {
					t.Helper()
					before := held.Now()
					haproxytest.Until(t, "more frames "+when, func() bool { return held.Now().Servers[on] > before.Servers[on]+30 })
				}
				more("one", "at first")
				s.byRuntime(rest, one, two)
				s.byRuntime(rest, two)
				more("one", "after its server left")
				if got := s.serve(strings.Replace(rest, "{", `{"timeout.server":"20s",`, 1), two); got.How != haproxy.HowReload {
					t.Fatalf("another timeout came by %s, want a reload", got.How)
				}
				more("one", "after a reload")
				report := held.Stop()
				if report.Failed > 0 || len(report.Servers) != 1 {
					t.Errorf("want no failure, and all frames by one: %s", report)
				}
			})
		})
	}
}

// grpcServer is a gRPC server that tells its name in a header and in a trailer.
func grpcServer(name string) (*grpc.Server, *health.Server) {
	told := func(kind string) metadata.MD { return metadata.Pairs(kind, name) }
	s := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			grpc.SetHeader(ctx, told("header-of"))   // the client counts
			grpc.SetTrailer(ctx, told("trailer-of")) // the same
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			stream.SetHeader(told("header-of")) // the client counts
			return handler(srv, stream)
		}),
	)
	state := health.NewServer()
	health_v1.RegisterHealthServer(s, state)
	return s, state
}

func dialGRPC(t haproxytest.T, addr string) health_v1.HealthClient {
	t.Helper()
	return health_v1.NewHealthClient(connectGRPC(t, addr))
}

func connectGRPC(t haproxytest.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("grpc.test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() }) // no call is left
	return conn
}

// whose is the name that a header or trailer tells.
func whose(md metadata.MD, kind string) string { return strings.Join(md.Get(kind), ",") }

// TestGRPC: calls and streams of gRPC come through, with their trailers; a stream lives on when servers come and
// go, its own too.
func TestGRPC(t *testing.T) {
	inTLS := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("grpc.test")}}
	for name, c := range map[string]struct {
		options string
		server  speaking
	}{
		"clear": {`"h2":"true"`, speaking{h2: true}},
		"TLS":   {`"h2":"true","tls":"server"`, speaking{h2: true, tls: inTLS}},
	} {
		t.Run(name, func(t *testing.T) {
			haproxytest.Each(t, func(t haproxytest.T) {
				first, firstState := grpcServer("first")
				second, _ := grpcServer("second")
				one, two := c.server.start(t, first), c.server.start(t, second)
				rest := `"hosts":["grpc.test"],"options":{` + c.options + `}`
				s := newSite(t, render.ProxyCheckOff, nil)
				s.serve(rest, one)
				client := dialGRPC(t, s.addr)
				stream, err := client.Watch(t.Context(), &health_v1.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				next := func(want health_v1.HealthCheckResponse_ServingStatus) {
					t.Helper()
					if got, err := stream.Recv(); err != nil || got.GetStatus() != want {
						t.Fatalf("the stream: got %v, %v, want %s", got, err, want)
					}
				}
				next(health_v1.HealthCheckResponse_SERVING)
				s.byRuntime(rest, one, two)
				seen := map[string]int{}
				for range 10 {
					for _, name := range callGRPC(t, client) {
						seen[name]++
					}
				}
				if seen["first"] != 10 || seen["second"] != 10 {
					t.Errorf("20 calls over one connection were answered by %v, want both in turns", seen)
				}
				s.byRuntime(rest, two)
				firstState.SetServingStatus("", health_v1.HealthCheckResponse_NOT_SERVING)
				next(health_v1.HealthCheckResponse_NOT_SERVING)
				if got := callGRPC(t, client); got != [2]string{"second", "second"} {
					t.Errorf("calls after a server left: answered by %q, want second", got)
				}
			})
		})
	}
}

// callGRPC makes a call that succeeds and one that fails, and returns who answered them.
func callGRPC(t haproxytest.T, client health_v1.HealthClient) [2]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), haproxytest.Patience)
	defer cancel()
	var header, trailer, of metadata.MD
	got, err := client.Check(ctx, &health_v1.HealthCheckRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || whose(header, "header-of") == "" || whose(header, "header-of") != whose(trailer, "trailer-of") {
		t.Fatalf("a call: %v, %v, header %v, trailer %v", got, err, header, trailer)
	}
	_, err = client.Check(ctx, &health_v1.HealthCheckRequest{Service: "unknown"}, grpc.Trailer(&of))
	if status.Code(err) != codes.NotFound || whose(of, "trailer-of") == "" {
		t.Fatalf("a call that fails: %v, trailer %v, want NotFound, which a trailer says", err, of)
	}
	return [2]string{whose(trailer, "trailer-of"), whose(of, "trailer-of")}
}

// TestSilentStreams: a stream on which neither side says anything for long lives for as long as timeout.server
// allows, also beyond the proxy's own time for clients, at the shared port and at the service's own.
func TestSilentStreams(t *testing.T) {
	impatient := strings.Replace(templates.HAProxy, "timeout client 60s", "timeout client 500ms", 1)
	haproxytest.Each(t, func(t haproxytest.T) {
		server, _ := grpcServer("server")
		reflection.Register(server)
		addr := speaking{h2: true}.start(t, server)
		s := newSite(t, render.ProxyCheckOff, nil)
		own := haproxytest.Address(t, "127.83.12.1")
		_, port, _ := net.SplitHostPort(own)
		s.template(impatient)
		s.serve(`"hosts":["grpc.test"],"listen":`+port+`,"options":{"h2":"true","timeout.server":"1h"}`, addr)
		for _, addr := range []string{s.addr, own} {
			if !s.outlives(addr, 1500*time.Millisecond) {
				t.Errorf("a silent stream at %s was cut (%s is the service's own port)", addr, port)
			}
		}
	})
}

// outlives tells whether a stream of both sides can still be used after a silence of both.
func (s *site) outlives(addr string, silence time.Duration) bool {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), haproxytest.Patience)
	defer cancel()
	stream, err := reflection_v1.NewServerReflectionClient(connectGRPC(s.T, addr)).ServerReflectionInfo(ctx)
	if err != nil {
		s.Fatal(err)
	}
	ask := func() error {
		if err := stream.Send(&reflection_v1.ServerReflectionRequest{MessageRequest: &reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	if err := ask(); err != nil {
		s.Fatal(err)
	}
	select { // what is tested is that nothing happens
	case <-time.After(silence):
	case <-ctx.Done():
	}
	return ask() == nil
}

// TestTimeouts: a server that does not answer in time is 504 to the client, and a WebSocket on which nothing is said
// ends after timeout.tunnel, whatever timeout.server says.
func TestTimeouts(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, nil)
		silent := newGated("silent")
		s.serve(options(`"timeout.server":"300ms"`), speaking{}.start(t, silent))
		began := time.Now()
		if _, status := s.answered(visit{target: "/held"}); status != http.StatusGatewayTimeout || time.Since(began) < 250*time.Millisecond {
			t.Errorf("no answer: %d after %s, want 504 after 300 ms", status, time.Since(began))
		}
		var ledger load.Ledger
		s.serve(options(`"timeout.server":"50ms","timeout.tunnel":"500ms"`), speaking{}.start(t, load.Handler("ws", &ledger)))
		conn, err := net.DialTimeout("tcp", s.addr, haproxytest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // it has ended
		fmt.Fprint(conn, "GET /websocket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		r := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("handshake: %v, %v", resp, err)
		}
		began = time.Now()
		if b, err := r.ReadByte(); err == nil || time.Since(began) < 400*time.Millisecond {
			t.Errorf("a silent WebSocket: %q, %v after %s, want its end after 500 ms", b, err, time.Since(began))
		}
	})
}

// TestSilentClients: who says nothing keeps no connection for long (slowloris), and gets no answer that would be taken
// for that to a later request; in mode tcp it is as the service says.
func TestSilentClients(t *testing.T) {
	impatient := strings.NewReplacer("timeout http-request 10s", "timeout http-request 300ms", "timeout client-hs 10s", "timeout client-hs 300ms").Replace(templates.HAProxy)
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, nil)
		own := haproxytest.Address(t, "127.83.12.1")
		_, port, _ := net.SplitHostPort(own)
		s.template(impatient)
		addr := speaking{}.start(t, newGated("one"))
		s.serve(`"hosts":["a.test"]`, addr)
		for said, want := range map[string]string{"": "", "GET / HTTP/1.1\r\nHo": "HTTP/1.1 408 "} {
			if got := untilClosed(t, s.addr, said); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
				t.Errorf("after %q: got %q, want %q", said, got, want)
			}
		}
		s.serve(`"mode":"tcp","listen":`+port+`,"options":{"timeout.server":"300ms"}`, addr)
		if got := untilClosed(t, own, ""); got != "" {
			t.Errorf("in mode tcp: got %q", got)
		}
	})
}

// untilClosed is all that comes over a connection before it is closed.
func untilClosed(t haproxytest.T, addr, said string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, haproxytest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // it has ended
	if err := conn.SetDeadline(time.Now().Add(haproxytest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, said)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("%s, after %q: %v", addr, said, err)
	}
	return string(got)
}
