package etcd

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
)

// nameserver is a real DNS server that knows service records, and can be made to answer otherwise.
type nameserver struct {
	conn net.PacketConn
	mu   sync.Mutex
	srv  map[string][]net.SRV // by name, with the dot at the end
	code dnsmessage.RCode     // of all answers, unless it is a success
	deaf bool
	n    int // questions
}

const (
	ssl   = "_etcd-client-ssl._tcp.example.test."
	plain = "_etcd-client._tcp.example.test."
)

func newNameserver(t *testing.T) *nameserver {
	t.Helper()
	conn, err := net.ListenPacket("udp", address()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameserver{conn: conn, srv: map[string][]net.SRV{}}
	var serving sync.WaitGroup
	serving.Go(s.serve)
	t.Cleanup(func() { conn.Close(); serving.Wait() })
	return s
}

// resolver is one that asks this server.
func (s *nameserver) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", s.conn.LocalAddr().String())
	}}
}

func (s *nameserver) change(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// set replaces all records of a name.
func (s *nameserver) set(name string, records ...net.SRV) {
	s.change(func() { s.srv[name] = records })
}

func (s *nameserver) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *nameserver) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var question dnsmessage.Message
		if question.Unpack(buf[:n]) != nil {
			continue
		}
		if answer := s.answer(question); answer != nil {
			_, _ = s.conn.WriteTo(answer, from)
		}
	}
}

func (s *nameserver) answer(m dnsmessage.Message) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.deaf {
		return nil
	}
	q := m.Questions[0]
	records := s.srv[q.Name.String()]
	m.Response, m.Authoritative, m.RCode, m.Additionals = true, true, s.code, nil
	if len(records) == 0 && s.code == dnsmessage.RCodeSuccess {
		m.RCode = dnsmessage.RCodeNameError
	}
	if m.RCode == dnsmessage.RCodeSuccess {
		for _, r := range records {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.SRVResource{Priority: r.Priority, Weight: r.Weight, Port: r.Port, Target: dnsmessage.MustNewName(r.Target)},
			})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

func TestLookup(t *testing.T) {
	e1, e2 := net.SRV{Target: "e1.example.test.", Port: 2379}, net.SRV{Target: "E2.example.test.", Port: 1234}
	last := net.SRV{Target: "a.example.test.", Port: 1, Priority: 9}
	foreign := net.SRV{Target: "e1.example.com.", Port: 2379}
	refuse := dnsmessage.RCodeServerFailure
	for name, tt := range map[string]struct {
		url        string
		cfg        Config
		ssl, plain []net.SRV
		code       dnsmessage.RCode
		want       []string
		err        string
	}{
		"given":                   {url: "http://e1:2379", want: []string{"http://e1:2379"}},
		"both":                    {ssl: []net.SRV{last, e2, e1}, plain: []net.SRV{e1}, want: []string{"https://e1.example.test:2379", "https://e2.example.test:1234", "https://a.example.test:1"}},
		"plain":                   {plain: []net.SRV{e2, e1, foreign}, want: []string{"http://e1.example.com:2379", "http://e1.example.test:2379", "http://e2.example.test:1234"}},
		"none":                    {err: "no such host"},
		"no such service":         {ssl: []net.SRV{{Target: ".", Port: 0}}, err: "no such host"},
		"TLS only, by scheme":     {url: "etcds+srv://example.test", plain: []net.SRV{e1}, err: "etcds+srv:// is with TLS"},
		"TLS only, by authority":  {cfg: Config{Files: Files{CA: "ca.pem"}}, plain: []net.SRV{e1}, err: "--registry-ca, -cert and -key are for TLS"},
		"TLS only, by password":   {cfg: Config{Username: "u"}, plain: []net.SRV{e1}, err: "a password goes over TLS only"},
		"not of the domain":       {ssl: []net.SRV{foreign}, err: "which is not in example.test: give --registry-ca"},
		"not of it, but vouched":  {cfg: Config{Files: Files{CA: "ca.pem"}}, ssl: []net.SRV{foreign}, want: []string{"https://e1.example.com:2379"}},
		"a server that is broken": {plain: []net.SRV{e1}, code: refuse, err: "server misbehaving"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newNameserver(t)
			s.change(func() { s.code = tt.code })
			s.set(ssl, tt.ssl...)
			s.set(plain, tt.plain...)
			tt.cfg.Resolver, tt.cfg.Endpoints = s.resolver(), []string{tt.url}
			if tt.url == "" {
				tt.cfg.Endpoints = []string{"etcd+srv://example.test"}
			}
			got, err := Lookup(limited(t), tt.cfg)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got error %v, want one that says %q", err, tt.err)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
}

// named makes a member's way begin at a name that every host knows, and returns a record of it.
func named(t *testing.T, m *member) net.SRV {
	t.Helper()
	m.way = linkTo(t, "tcp", m.addr+":2379", "127.0.0.1:0")
	_, text, _ := net.SplitHostPort(m.way.path)
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	m.way.name = "localhost:" + text
	return net.SRV{Target: "localhost.", Port: uint16(port)}
}

// TestDomainNamesTheMembers: an agent starts without DNS, finds the members when there is one, follows
// its records, and needs it no more while nothing changes.
func TestDomainNamesTheMembers(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 2, nil)
	s := newNameserver(t)
	s.change(func() { s.deaf = true })
	var records []net.SRV
	for _, m := range members {
		records = append(records, named(t, m))
	}
	log, hook := logtest.NewNullLogger()
	c := dialed(t, Config{Endpoints: []string{"etcd+srv://example.test"}, Resolver: s.resolver(), Log: log})
	a := newAgent(t, c)
	a.fails(t, Unreachable, "no endpoint of the registry is known")
	s.change(func() { s.deaf = false })
	a.fails(t, Unreachable, "_etcd-client", "no such host")
	s.set(plain, records[0])
	a.works(t, registrytest.Instance("a", "web", 1))
	if diff := cmp.Diff(c.Endpoints(), endpointsOf(members[0])); diff != "" {
		t.Errorf("endpoints (-got +want):\n%s", diff)
	}

	// The records change. The member that they named is left although it lives: once nothing answers,
	// they are looked up at once, here because the only connection is cut.
	s.set(plain, records[1])
	members[0].way.cut()
	a.works(t, registrytest.Instance("a", "web", 2))
	if diff := cmp.Diff(c.Endpoints(), endpointsOf(members[1])); diff != "" {
		t.Errorf("endpoints (-got +want):\n%s", diff)
	}

	// DNS goes away, and the connection: the endpoints stay.
	s.change(func() { s.code = dnsmessage.RCodeServerFailure })
	asked := s.asked()
	members[1].way.cut()
	eventually(t, "it is asked in vain three times", func() error {
		if n := s.asked() - asked; n < 3 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	members[1].way.mend(t)
	a.works(t, registrytest.Instance("a", "web", 3))
	failures := 0
	for _, e := range hook.AllEntries() {
		if strings.Contains(e.Message, "cannot be looked up") {
			failures++
		}
	}
	if failures != 2 {
		t.Errorf("got %d messages of failures, want one of each time", failures)
	}
}

// TestDomainWithTLS: the certificate must hold the name of the record, and once there were records
// with TLS there is no way back.
func TestDomainWithTLS(t *testing.T) {
	t.Parallel()
	s := newSecured(t, "localhost") // a member that begins just now must not find half of a new pair
	dns := newNameserver(t)
	dns.set(ssl, named(t, s.member))
	c := dialed(t, Config{Endpoints: []string{"etcd+srv://example.test"}, Files: s.files, Resolver: dns.resolver()})
	a := newAgent(t, c)
	a.works(t, registrytest.Instance("a", "web", 1))
	s.authority.server(t, s.servers, "elsewhere.example.test")
	s.reconnects(t)
	a.set(t)
	a.fails(t, Certificate, "names that it holds")
	if state := c.Endpoints(); !slices.Equal(state, endpointsOf(s.member)) {
		t.Errorf("endpoints: got %v", state)
	}
}

func TestDomainNeverGoesBackToPlain(t *testing.T) {
	dns := newNameserver(t)
	dns.set(ssl, net.SRV{Target: "e1.example.test.", Port: 2379})
	dns.set(plain, net.SRV{Target: "e1.example.test.", Port: 2379})
	d := newDomain(Config{Endpoints: []string{"etcd+srv://example.test"}, Resolver: dns.resolver(), Log: quiet()}, newTransport(nil))
	c := dialed(t, Config{Endpoints: []string{"http://127.0.0.1:1"}})
	d.look(limited(t), c)
	want := []string{"https://e1.example.test:2379"}
	if diff := cmp.Diff(d.endpoints, want); diff != "" {
		t.Fatalf("(-got +want):\n%s", diff)
	}
	dns.set(ssl)
	d.look(limited(t), c)
	if diff := cmp.Diff(d.endpoints, want); diff != "" || !d.failing || !strings.Contains(d.trouble(), "it had some with TLS") {
		t.Errorf("got %s, %v (-got +want):\n%s", d.trouble(), d.failing, diff)
	}
}
