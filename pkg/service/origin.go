package service

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// Origin is the kind of source that an instance comes from. Its id tells it.
type Origin string

// The origins of instances.
const (
	FromContainer Origin = "container" // <container12>.<service>.<port>
	FromFile      Origin = "file"      // file.<service>.<hash8>, declared in a services file
	FromCommand   Origin = "cli"       // cli.<service>.<hash8>, there as long as a command runs
)

// OriginOf is the origin that an id tells.
func OriginOf(id string) Origin {
	for _, o := range []Origin{FromFile, FromCommand} {
		if strings.HasPrefix(id, string(o)+".") {
			return o
		}
	}
	return FromContainer
}

// DeclaredID is the id of an instance that somebody declared: the same for the same service and
// endpoint, whatever else is said about it.
func DeclaredID(o Origin, service string, at netip.AddrPort) string {
	const hashLen = 8
	sum := sha256.Sum256([]byte(at.String()))
	return string(o) + "." + service + "." + hex.EncodeToString(sum[:])[:hashLen]
}
