package etcd

import (
	"slices"
	"strings"
)

// Cause says in a word why the registry cannot be used.
type Cause string

// The causes. What is none of these is Other.
const (
	Unreachable       Cause = "unreachable"        // no member answers
	NoQuorum          Cause = "no-quorum"          // members answer, but have no leader
	NoSpace           Cause = "no-space"           // the quota is used up, or the alarm for it is on
	Overloaded        Cause = "overloaded"         // the cluster cannot keep up with all requests
	Denied            Cause = "denied"             // the user lacks a right
	Credentials       Cause = "credentials"        // the user or the password is wrong or missing
	Certificate       Cause = "certificate"        // a member's certificate is not trusted
	ClientCertificate Cause = "client-certificate" // a member does not take ours
	Other             Cause = "other"
)

// Causes are all of them.
func Causes() []string {
	all := make([]string, 0, len(marks())+2)
	for _, m := range marks() {
		all = append(all, string(m.cause))
	}
	all = append(all, string(Unreachable), string(Other))
	slices.Sort(all)
	return all
}

// Problem is an error with its cause.
type Problem struct {
	Is  Cause
	err error
}

// Error says what is wrong, and the mend.
func (p *Problem) Error() string { return p.err.Error() }

// Unwrap returns what the client said.
func (p *Problem) Unwrap() error { return p.err }

// Cause is the cause as a word, for those who know nothing of etcd.
func (p *Problem) Cause() string { return string(p.Is) }

// mark is what the texts of a cause have in common. The library hands errors on as texts: from servers, from
// TLS, and from what gets tokens.
type mark struct {
	cause Cause
	texts []string
}

// marks are in the order in which they count.
func marks() []mark {
	return []mark{
		{NoSpace, []string{"database space exceeded"}},
		{Overloaded, []string{"etcdserver: too many requests"}},
		{Denied, []string{"etcdserver: permission denied"}},
		{Credentials, []string{
			"etcdserver: user name is empty", "etcdserver: invalid auth token", "etcdserver: authentication failed", refused, "--registry-password-file",
		}},
		{NoQuorum, []string{"etcdserver: no leader", "etcdserver: leader changed", "etcdserver: request timed out", "etcdserver: unhealthy cluster"}},
		// An alert of the server's. What it says of our certificate begins or ends in that word.
		{ClientCertificate, []string{
			"remote error: tls: certificate", "remote error: tls: bad certificate", "remote error: tls: expired certificate",
			"remote error: tls: unknown certificate", "remote error: tls: revoked certificate", "remote error: tls: unsupported certificate",
		}},
		{Certificate, []string{"x509: ", "tls: failed to verify"}},
	}
}

// causeOf is the cause that a text tells of, or otherwise.
func causeOf(text string, otherwise Cause) Cause {
	for _, m := range marks() {
		if slices.ContainsFunc(m.texts, func(t string) bool { return strings.Contains(text, t) }) {
			return m.cause
		}
	}
	return otherwise
}
