package convention

import (
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// nginxProxy makes one service of the port that VIRTUAL_HOST leads to.
func nginxProxy(c *Container, m marks, n *notes) [][]service.Setting {
	if several, ok := m["VIRTUAL_HOST_MULTIPORTS"]; ok {
		return [][]service.Setting{{several.refuse("host",
			"its YAML is not read: write the labels sidekick.services.NAME.port, .host and .path for each port, and remove it")}}
	}
	host, ok := m["VIRTUAL_HOST"]
	if !ok {
		return nil
	}
	path := m["VIRTUAL_PATH"].text
	settings := slices.Concat(
		host.hostService(c, strings.Join(items(host.text), ","), path),
		[]service.Setting{virtualHosts(host)}, virtualPort(c, m), virtualPath(m), virtualProto(m),
	)
	n.ignored(m, "everybody who reaches the proxies reaches this service; keep others out by the networks that the proxies listen on (--http-listen)", "NETWORK_ACCESS")
	n.ignored(m, "sidekick.redirect=https leads browsers to HTTPS", "HTTPS_METHOD")
	n.ignored(m, "the proxies' certificates are not chosen by containers", "CERT_NAME", "SSL_POLICY", "HSTS", "LETSENCRYPT_HOST", "ACME_HOST")
	n.ignored(m, "sidekick.balance chooses the algorithm", "com.github.nginx-proxy.nginx-proxy.loadbalance")
	n.ignored(m, "it is about nginx alone", "VIRTUAL_ROOT", "SERVER_TOKENS", "com.github.nginx-proxy.nginx-proxy.keepalive", "com.github.nginx-proxy.nginx-proxy.trust-default-cert")
	return [][]service.Setting{settings}
}

// virtualHosts takes host names and leading wildcards.
func virtualHosts(m mark) service.Setting {
	hosts := items(m.text)
	for _, h := range hosts {
		switch {
		case strings.HasPrefix(h, "~"):
			return m.refuse("host", "hosts by regular expression are not routed: write the names, or *.example.com for all below one, also as label sidekick.host")
		case strings.HasSuffix(h, ".*"):
			return m.refuse("host", "a wildcard at the end is not routed: write each name, also as label sidekick.host")
		}
	}
	return m.set("host", strings.Join(hosts, ","))
}

// virtualPort is the port that is named, else the only one, else 80. Where none of these is there,
// whoever asks for the port says what is missing.
func virtualPort(c *Container, m marks) []service.Setting {
	if named, ok := m["VIRTUAL_PORT"]; ok {
		return []service.Setting{named.set("port", named.text)}
	}
	const usual = 80
	switch ports := c.Ports.TCP; {
	case len(ports) <= 1:
		return nil
	case slices.Contains(ports, usual):
		return []service.Setting{portSetting(usual)}
	default:
		return []service.Setting{m["VIRTUAL_HOST"].refuse("port", "the container has several TCP ports (%s) and not port 80: say which one by VIRTUAL_PORT or the label sidekick.port", PrintPorts(ports))}
	}
}

// virtualPath is the path, and whether it is taken off.
func virtualPath(m marks) []service.Setting {
	var settings []service.Setting
	if path, ok := m["VIRTUAL_PATH"]; ok {
		if strings.HasPrefix(path.text, "~") {
			settings = append(settings, path.refuse("path", "paths by regular expression are not routed: write a prefix, also as label sidekick.path"))
		} else {
			settings = append(settings, path.set("path", path.text))
		}
	}
	if dest, ok := m["VIRTUAL_DEST"]; ok {
		if dest.text == "/" {
			settings = append(settings, dest.set("path.strip", "true"))
		} else {
			settings = append(settings, dest.refuse("path.strip", "a path is passed on as it is, or taken off by VIRTUAL_DEST=/, but not replaced: have the application serve that path"))
		}
	}
	return settings
}

// virtualProto is how the container is spoken to.
func virtualProto(m marks) []service.Setting {
	proto, ok := m["VIRTUAL_PROTO"]
	if !ok || proto.text == "http" {
		return nil
	}
	switch proto.text {
	case "https":
		return []service.Setting{proto.set("tls", "server")}
	case "grpc":
		return []service.Setting{proto.set("h2", "true")}
	}
	return []service.Setting{proto.refuse("tls", "containers are spoken to by http, https or grpc: have the application serve one of these, or reach it by the label sidekick.mode=tcp")}
}
