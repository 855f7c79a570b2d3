package haproxy

import (
	"fmt"
	"strings"
	"time"
)

// Op is what a runtime command does.
type Op string

// The runtime commands that the planner uses.
const (
	OpAdd     Op = "add"     // a new server, in service unless Disabled
	OpWeight  Op = "weight"  // another weight
	OpMaxconn Op = "maxconn" // another limit of requests at once
	OpEnable  Op = "enable"  // in service
	OpDisable Op = "disable" // out of service, streams in flight go on
	OpRaise   Op = "raise"   // up again, for a server that is down without a check of its own
	OpCheck   Op = "check"   // its health checks go on
	OpRemove  Op = "remove"  // out of service, deleted once nothing uses it

	OpMapAdd     Op = "map-add"     // an entry that a map lacks
	OpMapSet     Op = "map-set"     // another value for a key
	OpMapDelete  Op = "map-delete"  // an entry
	OpMapReplace Op = "map-replace" // all entries, as one transaction

	OpCertificate     Op = "certificate"      // another one in place of a loaded one
	OpCertificateLoad Op = "certificate-load" // one more, for a crt-list
	OpCertificateDrop Op = "certificate-drop" // one that nothing uses any more
	OpListAdd         Op = "list-add"         // a line at the end of a crt-list
	OpListDelete      Op = "list-delete"      // the line of a certificate in a crt-list
)

// Command changes one server, or one file, of a running HAProxy.
type Command struct {
	Op              Op
	Backend, Server string
	Weight          int // for OpAdd and OpWeight
	Maxconn         int // for OpMaxconn; 0 is no limit
	// The rest about servers is for OpAdd; OpRemove has it too, to know the server again if it comes
	// back.
	Address  string
	Words    []string // words and arguments, without weight and disabled
	Disabled bool
	Drain    time.Duration // for OpRemove: how long sessions may go on; 0 is the driver's limit

	File    string  // of maps, certificates and crt-lists: as the configuration names it
	Entries []Entry // of a map
	Text    string  // a certificate with its key, a line of a crt-list, the certificate's name for OpListDelete
}

// unseen tells whether nobody can read back from HAProxy what the command did.
func (c Command) unseen() bool {
	switch c.Op {
	case OpMaxconn, OpCertificate, OpCertificateLoad, OpCertificateDrop, OpListAdd, OpListDelete:
		return true
	default:
		return false
	}
}

// target names the server on HAProxy's command line.
func (c Command) target() string { return c.Backend + "/" + c.Server }

// lines are the statements of the Runtime API that do what the command says. Each has an answer of
// its own.
func (c Command) lines() []string {
	switch c.Op {
	case OpAdd:
		return c.addLines()
	case OpWeight:
		return []string{fmt.Sprintf("set server %s weight %d", c.target(), c.Weight)}
	case OpMaxconn:
		return []string{fmt.Sprintf("set maxconn server %s %d", c.target(), c.Maxconn)}
	case OpRaise:
		return []string{"set server " + c.target() + " health up"}
	case OpCheck:
		return []string{"enable health " + c.target()}
	case OpEnable:
		return []string{"set server " + c.target() + " state ready"}
	case OpDisable:
		return []string{"set server " + c.target() + " state maint"}
	case OpRemove:
		return []string{"set server " + c.target() + " state maint", "del server " + c.target()}
	default:
		return c.fileLines()
	}
}

// fileLines are the statements for maps, certificates and crt-lists. What follows "<<" is the
// payload, up to the end. A whole map takes a conversation, see replaceMap.
func (c Command) fileLines() []string {
	switch c.Op {
	case OpMapAdd:
		return []string{fmt.Sprintf("add map %s %s %s", c.File, c.Entries[0].Key, c.Entries[0].Value)}
	case OpMapSet:
		return []string{fmt.Sprintf("set map %s %s %s", c.File, c.Entries[0].Key, c.Entries[0].Value)}
	case OpMapDelete:
		return []string{fmt.Sprintf("del map %s %s", c.File, c.Entries[0].Key)}
	case OpCertificate:
		return []string{"set ssl cert " + c.File + payloadMark + c.Text, "commit ssl cert " + c.File}
	case OpCertificateLoad:
		return []string{"new ssl cert " + c.File, "set ssl cert " + c.File + payloadMark + c.Text, "commit ssl cert " + c.File}
	case OpCertificateDrop:
		return []string{"del ssl cert " + c.File}
	case OpListAdd:
		return []string{"add ssl crt-list " + c.File + payloadMark + c.Text + "\n"}
	case OpListDelete:
		return []string{"del ssl crt-list " + c.File + " " + c.Text}
	default:
		return nil
	}
}

// addLines gives a server all its words, for HAProxy ignores default-server here, and puts it in
// service as a reload of the same text would.
func (c Command) addLines() []string {
	words := append([]string{"add server", c.target(), c.Address}, c.Words...)
	words = append(words, fmt.Sprintf("weight %d", c.Weight))
	words = append(words, c.defaults()...)
	lines := []string{strings.Join(words, " ")}
	if c.has("check") {
		lines = append(lines, "enable health "+c.target())
	}
	if !c.Disabled {
		lines = append(lines, "set server "+c.target()+" state ready")
	}
	return lines
}

// defaults are words that mean in a file what their lack does. Only HAProxy 2.6 needs to hear them: a
// server that is added at run time never reused its connections, and fell at the second error that
// it was observed to give.
func (c Command) defaults() []string {
	var words []string
	add := func(word, arg string) {
		if !c.has(word) {
			words = append(words, word+" "+arg)
		}
	}
	add("pool-max-conn", "-1")
	add("pool-purge-delay", "5s")
	if c.has("observe") {
		add("error-limit", "10")
		add("on-error", "fail-check")
	}
	return words
}

func (c Command) has(word string) bool {
	for i := 0; i < len(c.Words); i++ {
		if c.Words[i] == word {
			return true
		}
		args, _ := serverWord(c.Words[i])
		i += args
	}
	return false
}

// Capabilities is what the running HAProxy can do at run time. The zero value is the least.
type Capabilities struct {
	Cookie bool // `add server` takes cookie, which 2.6 does not
	// Backends is for HAProxy 3.4 and later, where backends come and go at run time. Nothing uses it
	// yet: a new backend is a reload.
	Backends bool
}

// Reason says why only a reload will do. The zero value says that none is needed.
type Reason struct {
	Kind   string // one of few words, for counting
	Detail string // for people
}

// Kinds of reasons.
const (
	ReasonStart   = "start"   // what runs is not known
	ReasonSection = "section" // a section came, went or changed
	ReasonServer  = "server"  // a server cannot be changed as wanted
	ReasonFile    = "file"    // a file named by the configuration changed
	ReasonBatch   = "batch"   // so many changes that a reload is cheaper
	ReasonText    = "text"    // the text cannot be compared by parts
	ReasonRefused = "refused" // HAProxy refused a runtime command
	ReasonDrift   = "drift"   // what runs is not what the text says
)

// String is the reason as a sentence's end.
func (r Reason) String() string {
	if r.Detail == "" {
		return r.Kind
	}
	return r.Detail
}

// needed tells whether a reload is needed.
func (r Reason) needed() bool { return r != Reason{} }
