package haproxy

import (
	"crypto/sha256"
	"io"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	retryRefused = time.Minute      // the same text, for the cause may lie outside of it
	retryProbe   = 10 * time.Second // an address may become free any time

	// A text that HAProxy did not survive is tried once more, for HAProxy may only have been restarted
	// just then. Each try of one that kills it cuts all connections.
	retryDeadly = 5 * time.Second
	retryKiller = 24 * time.Hour

	// Other servers may be what a refused text lacks. Trying them costs a run of HAProxy's check.
	retryServersMin = time.Second
	retryServersMax = 10 * time.Second
)

// retryLoad is how long a text that HAProxy's check accepts and its start does not is left alone,
// whatever its servers: each try stops all listeners for seconds.
func retryLoad(failures int) time.Duration {
	switch failures {
	case 1:
		return time.Minute
	case 2:
		return 5 * time.Minute
	default:
		return 30 * time.Minute
	}
}

// retryDeath is how long a text that HAProxy did not survive so many times is left alone.
func retryDeath(deaths int) time.Duration {
	if deaths == 1 {
		return retryDeadly
	}
	return retryKiller
}

// refusal is the last text that was refused.
type refusal struct {
	err       *Refused
	text      [sha256.Size]byte
	structure [sha256.Size]byte // of the text without its server lines
	until     time.Time         // when that text is worth another try
	servers   time.Time         // when it is with other servers
	loads     int               // failed loads since the last good one, whatever was loaded
	deaths    int               // loads of that structure that HAProxy did not survive
	checks    int               // other refusals of that structure, in a row
	made      time.Time
}

// of returns the refusal if it holds for a text, and until when.
func (r *refusal) of(want render.Files) (*Refused, time.Time) {
	switch {
	case r.err == nil:
		return nil, time.Time{}
	case r.text == want.Hash():
		return r.err, r.until
	case r.structure == structure(want):
		return r.err, r.servers
	default:
		return nil, time.Time{}
	}
}

// holds returns the refusal that makes a text not worth a try now, or nil.
func (r *refusal) holds(want render.Files) error {
	if refused, until := r.of(want); refused != nil && time.Now().Before(until) {
		return refused
	}
	return nil
}

// note remembers a refusal. An error that is none leaves all as it was.
func (r *refusal) note(want render.Files, err error) {
	if err == nil {
		*r = refusal{}
		return
	}
	refused := asRefused(err)
	if refused == nil {
		return
	}
	next := refusal{err: refused, text: want.Hash(), structure: structure(want), loads: r.loads, made: time.Now()}
	if next.structure == r.structure {
		next.deaths, next.checks = r.deaths, r.checks
	}
	now := next.made
	switch stage := refused.Stage; {
	case stage == StageReload:
		next.loads++
		next.until = now.Add(retryLoad(next.loads))
		if refused.deadly {
			next.deaths++
			next.until = now.Add(retryDeath(next.deaths))
		}
		next.servers = next.until
	case stage == StageProbe:
		next.until = now.Add(retryProbe)
		next.servers = next.until
	case stage == StageConfirm, refused.slow:
		next.until = now.Add(retryRefused)
		next.servers = next.until
	default:
		next.until = now.Add(retryRefused)
		next.servers = now.Add(min(retryServersMin<<min(next.checks, 10), retryServersMax))
		next.checks++
	}
	*r = next
}

// lift ends the refusal for a worker that was started since: what was in the way then may be gone. It
// holds on if HAProxy was started anew because of that text.
func (r *refusal) lift(w Worker) {
	if r.err != nil && !r.err.deadly && w.Start > r.made.Unix() {
		r.err = nil
	}
}

// structure tells texts apart by everything but their server lines.
func structure(files render.Files) [sha256.Size]byte {
	h := sha256.New()
	for i, f := range files {
		io.WriteString(h, "\x00"+f.Name+"\x00")
		for _, block := range f.Blocks {
			if i > 0 {
				io.WriteString(h, block.Text)
				continue
			}
			for raw := range strings.Lines(block.Text) {
				if !isServerLine(raw) {
					io.WriteString(h, raw)
				}
			}
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func isServerLine(raw string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(raw, " \t"), "server")
	return ok && rest != "" && (rest[0] == ' ' || rest[0] == '\t')
}
