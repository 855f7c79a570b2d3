package service

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The options of a check that leaves them open.
const (
	DefaultCheckInterval = 5 * time.Second
	DefaultCheckTimeout  = 2 * time.Second
	DefaultCheckRise     = 1
	DefaultCheckFall     = 3
)

// NewCheck is the check that the definition asks for, made at target; by default that it accepts a
// connection.
func (d *Definition) NewCheck(target netip.AddrPort) *Check {
	c := &Check{
		Kind: CheckKind(d.Check), Target: target,
		Interval: DefaultCheckInterval, Timeout: DefaultCheckTimeout, Rise: DefaultCheckRise, Fall: DefaultCheckFall,
	}
	path, isHTTP := strings.CutPrefix(d.Check, "http:")
	switch {
	case isHTTP:
		c.Kind, c.HTTPPath, c.Host = CheckHTTP, path, hostHeader(d.Hosts)
		c.TLS, c.H2, c.Proxy = d.Options["tls"] == "server", d.Options["h2"] == "true", d.Options["proxy-protocol"]
	case d.Check == "":
		c.Kind = CheckTCP
	}
	// What breaks the grammar of its label is refused with the instance, and is not looked at here.
	setDuration(&c.Interval, d.Options["check.interval"])
	setDuration(&c.Timeout, d.Options["check.timeout"])
	setCount(&c.Rise, d.Options["check.rise"])
	setCount(&c.Fall, d.Options["check.fall"])
	return c
}

// hostHeader is the first of the hosts that can be asked for.
func hostHeader(hosts []string) string {
	for _, h := range hosts {
		if !strings.HasPrefix(h, "*") {
			return h
		}
	}
	return ""
}

func setDuration(into *time.Duration, text string) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		*into = d
	}
}

func setCount(into *int, text string) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		*into = n
	}
}
