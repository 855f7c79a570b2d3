package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// guide is deploy/etcd.md as its reader follows it: its boxes are what runs here, word for word but
// for the places that the document asks its reader to put his own for.
type guide struct {
	*world
	boxes  map[string]string // by their first lines
	quotes map[string]bool   // what else stands between backquotes
	used   map[string]bool   // boxes
	places *strings.Replacer
	shell  string // what the administrator has set in his shell so far
	ca     *authority
}

// readGuide takes the document apart.
func readGuide(t *testing.T) (boxes map[string]string, quotes map[string]bool) {
	t.Helper()
	const path = "../deploy/etcd.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boxes, quotes = map[string]string{}, map[string]bool{}
	box := regexp.MustCompile("(?ms)^```sh\n# (.*?)\n(.*?)^```$")
	for _, m := range box.FindAllStringSubmatch(string(text), -1) {
		boxes[m[1]] = m[2]
	}
	if n := strings.Count(string(text), "```sh\n"); n != len(boxes) || n == 0 {
		t.Fatalf("%s has %d shell boxes, of which %d begin with a comment that no other begins with", path, n, len(boxes))
	}
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(box.ReplaceAllString(string(text), ""), -1) {
		quotes[m[1]] = true
	}
	return boxes, quotes
}

// newGuide is a guide in a world of its own. It adds to used what it uses of the document.
func newGuide(t *testing.T, used map[string]bool) *guide {
	t.Helper()
	if without("etcdctl") {
		t.Skip("left out on demand: etcdctl")
	}
	boxes, quotes := readGuide(t)
	w := newWorld(t)
	g := &guide{world: w, boxes: boxes, quotes: quotes, used: used, ca: newAuthority(t)}
	g.places = strings.NewReplacer(
		"etcd1:2379,etcd2:2379,etcd3:2379", w.at(2379), "etcd1:2379", w.at(2379),
		"/etc/sidekick", w.path("sidekick"), "/etc/etcd", w.path("members"),
	)
	for _, dir := range []string{w.path("sidekick"), w.path("members")} {
		w.check(os.Mkdir(dir, 0o755))
		w.check(os.WriteFile(filepath.Join(dir, "ca.pem"), g.ca.certificate(), 0o644))
	}
	return g
}

// box is what a box says, at the places of this test.
func (g *guide) box(title string) string {
	g.Helper()
	text, ok := g.boxes[title]
	if !ok {
		g.Fatalf("deploy/etcd.md has no box %q", title)
	}
	g.used[title] = true
	return g.places.Replace(text)
}

// set takes over what a box sets in the administrator's shell.
func (g *guide) set(title string) { g.shell += g.box(title) }

// run runs boxes in the administrator's shell.
func (g *guide) run(titles ...string) {
	g.Helper()
	for _, title := range titles {
		if out, err := g.sh(g.shell, g.box(title)); err != nil {
			g.Fatalf("box %q: %v\n%s", title, err, out)
		}
	}
}

// sh runs a script after what a shell was told before.
func (g *guide) sh(before, script string) (string, error) {
	cmd := exec.CommandContext(g.ctx, "/bin/sh", "-ec", before+"\n"+script)
	cmd.Env = []string{"PATH=" + programs.dir + ":" + os.Getenv("PATH"), "SIDEKICK_ADMIN=" + g.adminAddr()} // and no ETCDCTL_*
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says waits until `sidekick status` shows a line that the document quotes, with anything where that
// has an ellipsis.
func (g *guide) says(quote string) {
	g.Helper()
	if !g.quotes[quote] {
		g.Fatalf("deploy/etcd.md does not quote %q", quote)
	}
	parts := strings.Split(g.places.Replace(quote), " … ")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	line := regexp.MustCompile("(?m)^" + strings.Join(parts, ".*"))
	g.until("status says "+quote, func() error {
		out, err := g.sh("", g.box("host: what each stage last did; exit code 1 if one fails"))
		if err == nil || !line.MatchString(out) {
			return fmt.Errorf("exit code: %w; it says\n%s", err, out)
		}
		return nil
	})
}

// assignments are the lines NAME=VALUE of a box.
func (g *guide) assignments(title string) map[string]string {
	g.Helper()
	values := map[string]string{}
	for line := range strings.Lines(g.box(title)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			g.Fatalf("box %q: %q is no NAME=VALUE", title, line)
		}
		values[name] = value
	}
	return values
}

// members starts an etcd with the environment that boxes give its members. Its tokens live so short
// that they run out all the time.
func (g *guide) members(titles ...string) {
	g.Helper()
	config, scheme := embed.NewConfig(), "http"
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	config.AddFlags(flags)
	for _, title := range titles {
		for name, value := range g.assignments(title) {
			g.check(flags.Set(strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "ETCD_"), "_", "-")), value))
		}
	}
	if config.ClientTLSInfo.CertFile != "" {
		scheme = "https"
		g.ca.issue(g.T, g.path("members/server"), "etcd1", net.ParseIP(g.addr))
	}
	client, peer := url.URL{Scheme: scheme, Host: g.at(2379)}, url.URL{Scheme: "http", Host: g.at(2380)}
	config.Dir, config.ZapLoggerBuilder = g.path("data"), embed.NewZapLoggerBuilder(zap.NewNop())
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.TickMs, config.ElectionMs, config.AuthTokenTTL = 50, 250, 1
	server, err := embed.StartEtcd(config)
	g.check(err)
	g.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		g.Fatal(err)
	case <-g.ctx.Done():
		g.Fatal(g.ctx.Err())
	}
}

// launch starts the agent with the settings of a box, and perhaps more, in the place of the one that
// ran before.
func (g *guide) launch(title string, more ...string) {
	g.Helper()
	g.stopAgent()
	settings := g.box(title) + strings.Join(more, "\n") + fmt.Sprintf(`
		SIDEKICK_ADVERTISE=%[1]s SIDEKICK_STATE_DIR=%[2]s/state SIDEKICK_LOG_FORMAT=text SIDEKICK_TTL=6s
		SIDEKICK_HTTP_LISTEN=%[3]s:8080 SIDEKICK_STATS_LISTEN=%[3]s:8405 SIDEKICK_ADMIN=%[3]s:7070
		SIDEKICK_HAPROXY_CONFIG=%[2]s/haproxy.cfg SIDEKICK_HAPROXY_MASTER_SOCKET=%[2]s/m.sock SIDEKICK_HAPROXY_RUNTIME_SOCKET=%[2]s/r.sock
	`, g.host, g.dir, g.addr)
	agent, err := proctest.Start("agent", g.path("agent.log"), "/bin/sh", "-ec", "set -a\n"+settings+"\nexec "+programs.sidekick+" run")
	g.check(err)
	g.agent = agent
}

func (g *guide) stopAgent() {
	g.Helper()
	if g.agent != nil {
		g.check(g.agent.End(patience))
		g.agent = nil
	}
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.key, a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	})
	return a
}

// certificate is the authority's own, as in a file.
func (a *authority) certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue writes NAME.pem and NAME.key for a client, or for a server with addresses.
func (a *authority) issue(t *testing.T, name, cn string, addresses ...net.IP) {
	t.Helper()
	usage := x509.ExtKeyUsageClientAuth
	if len(addresses) > 0 {
		usage = x509.ExtKeyUsageServerAuth
	}
	key, cert := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, IPAddresses: addresses,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	})
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".key": {Type: "PRIVATE KEY", Bytes: raw}, ".pem": {Type: "CERTIFICATE", Bytes: cert.Raw}} {
		if err := os.WriteFile(name+suffix, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// sign makes a key and a certificate of it; the first one signs itself.
func (a *authority) sign(t *testing.T, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(fmt.Errorf("certificate of %s: %w", template.Subject, err))
	}
	return key, cert
}
