package render

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Choices are what an operator chooses by --set of what the built-in template can do: the values of Set
// that the model knows, with their meaning. Other values of Set are free, for templates of one's own.
type Choices struct {
	AcceptProxy bool   // accept-proxy=true: what connects to the proxy begins with a PROXY protocol header, as from another load balancer
	ServerCA    string // server-ca=PATH: a file of certificates, which the agent reads, that vouch for those of servers; empty to take any
	ServerCert  string // server-cert=PATH: a file with the certificate and key that servers are shown, for mutual TLS, the same; empty for none
	HSTS        int    // hsts=SECONDS: for how long browsers are told to come by HTTPS alone, 0 for not at all

	TrustedProxies []netip.Prefix // trusted-proxies=CIDR,…: from these what they say of the client is believed, such as X-Forwarded-For
	AccessLog      AccessLog      // access-log=off, http or json: how requests are logged
	AuthDir        string         // auth-dir=DIR: where the files of sidekick.auth are
	ErrorDir       string         // error-dir=DIR: where pages such as 503.html and maintenance.html are
}

// AccessLog is how requests are logged.
type AccessLog string

// The values of --set access-log.
const (
	AccessLogOff  AccessLog = "off"
	AccessLogHTTP AccessLog = "http" // HAProxy's own format, with the request's id at its end
	AccessLogJSON AccessLog = "json" // a JSON object for each
)

// choice is a row of the table of what --set can choose.
type choice struct {
	name  string
	apply func(c *Choices, text string) error // an error says what may be written instead
}

// choices lists what the model knows of --set. It is never changed.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var choices = [...]choice{
	{"hsts", func(c *Choices, text string) error { return applySeconds(&c.HSTS, text) }},
	{"accept-proxy", func(c *Choices, text string) error { return applyBool(&c.AcceptProxy, text) }},
	{"server-ca", func(c *Choices, text string) error { return applyPath(&c.ServerCA, "file", text) }},
	{"server-cert", func(c *Choices, text string) error { return applyPath(&c.ServerCert, "file", text) }},
	{"access-log", func(c *Choices, text string) error { return c.AccessLog.apply(text) }},
	{"auth-dir", func(c *Choices, text string) error { return applyPath(&c.AuthDir, "directory", text) }},
	{"error-dir", func(c *Choices, text string) error { return applyPath(&c.ErrorDir, "directory", text) }},
	{"trusted-proxies", func(c *Choices, text string) error { return applyPrefixes(&c.TrustedProxies, text) }},
}

// ChoicesOf reads the values of --set that the model knows, and reports each that is wrong.
func ChoicesOf(set map[string]string) (Choices, error) {
	c := Choices{AccessLog: AccessLogOff}
	var errs []error
	for _, known := range choices {
		text, ok := set[known.name]
		if !ok {
			continue
		}
		if err := known.apply(&c, text); err != nil {
			errs = append(errs, fmt.Errorf("--set %s=%.40q: %w", known.name, text, err))
		}
	}
	return c, errors.Join(errs...)
}

// applySeconds reads a number of seconds, which may be a few years.
func applySeconds(n *int, text string) error {
	const most = 10 * 365 * 24 * 3600
	number, err := strconv.Atoi(text)
	if err != nil || number < 0 || number > most {
		return fmt.Errorf("write a number of seconds from 0 to %d", most)
	}
	*n = number
	return nil
}

func applyBool(b *bool, text string) error {
	switch text {
	case "true", "false":
		*b = text == "true"
		return nil
	}
	return errors.New("write true or false")
}

func (a *AccessLog) apply(text string) error {
	switch AccessLog(text) {
	case AccessLogOff, AccessLogHTTP, AccessLogJSON:
		*a = AccessLog(text)
		return nil
	}
	return errors.New("write off, http or json")
}

func applyPath(path *string, of, text string) error {
	if text == "" {
		return errors.New("write the path of a " + of)
	}
	*path = text
	return nil
}

// applyPrefixes reads networks and addresses, with commas or blanks between them.
func applyPrefixes(prefixes *[]netip.Prefix, text string) error {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	for _, word := range words {
		prefix, err := netip.ParsePrefix(word)
		if addr, errAddr := netip.ParseAddr(word); errAddr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%.40q is neither a network nor an address: write CIDR,CIDR,… such as 10.0.0.0/8,2001:db8::/32", word)
		}
		*prefixes = append(*prefixes, prefix.Masked())
	}
	if len(words) == 0 {
		return errors.New("write CIDR,CIDR,… such as 10.0.0.0/8,2001:db8::/32")
	}
	return nil
}
