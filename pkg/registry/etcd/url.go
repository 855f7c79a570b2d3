package etcd

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

const (
	defaultPort   = "2379"
	maxSocketPath = 107 // of a Unix socket, on Linux
)

// ParseURL takes a registry's URL apart into the endpoints for Config: etcd://HOST[:PORT],… without
// encryption, etcds://HOST[:PORT],… with TLS, unix://PATH for an etcd on this host's socket. In
// etcd+srv://DOMAIN and etcds+srv://DOMAIN, which come back as they are, the domain's records name the
// endpoints.
func ParseURL(raw string) ([]string, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, fmt.Errorf("registry %q has no scheme: write etcd://HOST:2379, etcds://HOST:2379 for TLS, etcd+srv://DOMAIN, or unix:///PATH", raw)
	}
	switch scheme {
	case "etcd":
		return endpoints(raw, "http", rest)
	case "etcds":
		return endpoints(raw, "https", rest)
	case "etcd+srv", "etcds+srv":
		return records(raw, scheme, rest)
	case "unix":
		return socket(raw, rest)
	default:
		return nil, fmt.Errorf("registry %q: scheme %q is unknown: use etcd, etcds, etcd+srv, etcds+srv or unix", raw, scheme)
	}
}

func socket(raw, path string) ([]string, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("registry %q: the socket's path must begin with a slash: write unix:///PATH", raw)
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("registry %q: the socket's path has %d bytes, more than the %d that the system allows", raw, len(path), maxSocketPath)
	}
	return []string{"unix://" + path}, nil
}

func records(raw, scheme, domain string) ([]string, error) {
	domain = strings.TrimSuffix(strings.TrimSuffix(domain, "/"), ".")
	if err := plainHosts(raw, domain); err != nil {
		return nil, err
	}
	if domain == "" || strings.ContainsAny(domain, ",: []") {
		return nil, fmt.Errorf("registry %q: give one domain, as in %s://example.com, whose records name hosts and ports", raw, scheme)
	}
	return []string{scheme + "://" + domain}, nil
}

// plainHosts refuses what does not go into the part of a URL that names hosts.
func plainHosts(raw, list string) error {
	if strings.Contains(list, "@") {
		// The text may hold a password: it is not repeated.
		return errors.New("registry: user names do not go into the URL: use --registry-user and --registry-password-file")
	}
	if strings.ContainsAny(list, "/?#") {
		return fmt.Errorf("registry %q has a path: give it as --prefix", raw)
	}
	return nil
}

func endpoints(raw, scheme, list string) ([]string, error) {
	list = strings.TrimSuffix(list, "/")
	if err := plainHosts(raw, list); err != nil {
		return nil, err
	}
	var all []string
	for host := range strings.SplitSeq(list, ",") {
		hostport, err := withPort(strings.TrimSpace(host))
		if err != nil {
			return nil, fmt.Errorf("registry %q: %w", raw, err)
		}
		all = append(all, scheme+"://"+hostport)
	}
	return all, nil
}

// withPort adds the default port to a host that has none.
func withPort(host string) (string, error) {
	if host == "" {
		return "", errors.New("an endpoint is empty: write HOST:PORT,HOST:PORT")
	}
	if strings.Count(host, ":") == 0 || strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host += ":" + defaultPort
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return "", fmt.Errorf("endpoint %q is not HOST:PORT (an IPv6 address goes into brackets)", host)
	}
	n, err := net.LookupPort("tcp", port) //nolint:noctx // a number, or a name from a table of this host
	if name == "" || err != nil || n == 0 {
		return "", fmt.Errorf("endpoint %q is not HOST:PORT with a port from 1 to 65535", host)
	}
	return host, nil
}
