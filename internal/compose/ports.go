package compose

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// span is a range of ports; zero for none.
type span struct{ low, high uint16 }

func (s span) size() int { return int(s.high) - int(s.low) + 1 }

// readPorts lists the ports of a service, those under "expose" included.
func readPorts(fields map[string]any) ([]Port, error) {
	var all []Port
	var errs []error
	for _, of := range []struct {
		field string
		read  func(any) ([]Port, error)
	}{{"ports", readPort}, {"expose", readExposed}} {
		items, ok := fields[of.field].([]any)
		if !ok && fields[of.field] != nil {
			errs = append(errs, fmt.Errorf("%s: want a list", of.field))
		}
		for _, item := range items {
			ports, err := of.read(item)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", of.field, err))
			}
			all = append(all, ports...)
		}
	}
	return all, errors.Join(errs...)
}

func readExposed(item any) ([]Port, error) {
	text, protocol, err := withProtocol(scalar(item))
	if err != nil {
		return nil, err
	}
	inside, err := readSpan(text)
	if err != nil {
		return nil, err
	}
	return exposed(inside, protocol), nil
}

// readPort reads an entry of "ports" in either of its notations.
func readPort(item any) ([]Port, error) {
	if fields, ok := item.(map[string]any); ok {
		return readLong(fields)
	}
	return readShort(scalar(item))
}

// readLong reads target, published, host_ip and protocol.
func readLong(fields map[string]any) ([]Port, error) {
	_, protocol, err := withProtocol("0/" + scalarOr(fields["protocol"], "tcp"))
	if err != nil {
		return nil, err
	}
	inside, err := readSpan(scalar(fields["target"]))
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	return publish(inside, scalar(fields["published"]), scalar(fields["host_ip"]), protocol)
}

// readShort reads [[IP:][HOST]:]CONTAINER[/PROTOCOL].
func readShort(entry string) ([]Port, error) {
	text, protocol, err := withProtocol(entry)
	if err != nil {
		return nil, err
	}
	address, outside := "", ""
	if at := strings.LastIndexByte(text, ':'); at >= 0 {
		outside, text = text[:at], text[at+1:]
		if at := strings.LastIndexByte(outside, ':'); at >= 0 {
			address, outside = outside[:at], outside[at+1:]
		}
	}
	inside, err := readSpan(text)
	if err != nil {
		return nil, fmt.Errorf("%.60q: %w", entry, err)
	}
	ports, err := publish(inside, outside, address, protocol)
	if err != nil {
		return nil, fmt.Errorf("%.60q: %w", entry, err)
	}
	return ports, nil
}

// publish lists ports of a container with those of the host. Several on the host for one of the
// container are a choice of the engine's.
func publish(inside span, outside, address, protocol string) ([]Port, error) {
	var ip netip.Addr
	if address != "" {
		parsed, err := netip.ParseAddr(strings.Trim(address, "[]"))
		if err != nil {
			return nil, fmt.Errorf("%.40q is no IP address", address)
		}
		ip = parsed
	}
	var host span
	if outside != "" && outside != "0" {
		read, err := readSpan(outside)
		if err != nil {
			return nil, err
		}
		host = read
	}
	ports := exposed(inside, protocol)
	choice := host.low == 0 || inside.size() == 1 && host.size() > 1
	if !choice && host.size() != inside.size() {
		return nil, fmt.Errorf("%d ports of the host are not %d of the container", host.size(), inside.size())
	}
	for i := range ports {
		ports[i].Published, ports[i].HostIP = true, ip
		if !choice {
			ports[i].HostPort = host.low + uint16(i)
		}
	}
	return ports, nil
}

func exposed(s span, protocol string) []Port {
	ports := make([]Port, s.size())
	for i := range ports {
		ports[i] = Port{Number: s.low + uint16(i), Protocol: protocol}
	}
	return ports
}

// withProtocol takes the protocol off a port's text.
func withProtocol(text string) (ports, protocol string, err error) {
	ports, protocol, given := strings.Cut(text, "/")
	switch protocol = strings.ToLower(protocol); {
	case !given:
		return ports, "tcp", nil
	case protocol == "tcp", protocol == "udp", protocol == "sctp":
		return ports, protocol, nil
	}
	return "", "", fmt.Errorf("%.60q: the protocol %.20q is none of tcp, udp, sctp", text, protocol)
}

// readSpan reads PORT or LOW-HIGH.
func readSpan(text string) (span, error) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	low, errLow := strconv.ParseUint(first, 10, 16)
	high, errHigh := strconv.ParseUint(last, 10, 16)
	if errLow != nil || errHigh != nil || low == 0 || low > high {
		return span{}, fmt.Errorf("%.40q is neither a port (1 to 65535) nor LOW-HIGH", text)
	}
	return span{uint16(low), uint16(high)}, nil
}
