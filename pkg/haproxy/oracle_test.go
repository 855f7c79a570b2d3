package haproxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// oracle is a HAProxy that tells how it reads a text. It listens nowhere but on a socket of its own.
type oracle struct {
	t   haproxytest.T
	dir string
}

func newOracle(t haproxytest.T) oracle { return oracle{t, haproxytest.Dir(t)} }

// path writes a file of the oracle.
func (o oracle) path(name, text string) string {
	o.t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
	return path
}

func (o oracle) command(args ...string) *exec.Cmd {
	cmd := exec.Command(o.t.Bin, args...)
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "TWO=one two", "EMPTY=")
	return cmd
}

// refused are the lines of a text that HAProxy complains about as fatal.
func (o oracle) refused(text string) map[int]bool {
	o.t.Helper()
	said, err := o.command("-W", "-c", "-f", o.path("check.cfg", text)).CombinedOutput()
	lines := map[int]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\[ALERT\].*check\.cfg:(\d+)\]`).FindAllSubmatch(said, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		lines[n] = true
	}
	if (err != nil) != (len(lines) > 0) {
		o.t.Fatalf("haproxy -c: %v\n%s", err, said)
	}
	return lines
}

// start runs a HAProxy with a text until the test ends.
func (o oracle) start(text string) runtimeAPI {
	o.t.Helper()
	api := runtimeAPI{filepath.Join(o.dir, "oracle.sock")}
	var said strings.Builder
	cmd := o.command("-db", "-f", o.path("run.cfg", "global\n stats socket "+api.path+" level admin\n"+text))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // killed below
	}()
	o.t.Cleanup(func() {
		cmd.Process.Kill() // may have ended
		<-ended
	})
	haproxytest.Until(o.t, "haproxy to answer", func() bool {
		select {
		case <-ended:
			o.t.Fatalf("haproxy ended:\n%s", said.String())
		default:
		}
		_, err := api.info(o.t.Context())
		return err == nil
	})
	return api
}

// patterns are the words that HAProxy has read of the lines of aclText, in their order.
func (o oracle) patterns(lines []string) [][]string {
	o.t.Helper()
	api := o.start(aclText(lines))
	begins := regexp.MustCompile(`(?m)^0x[0-9a-f]+ `)
	all := make([][]string, len(lines))
	for i := range lines {
		answer, err := ask(o.t.Context(), api.path, fmt.Sprintf("show acl #%d", i))
		if err != nil {
			o.t.Fatal(err)
		}
		for _, w := range begins.Split(strings.TrimSuffix(answer, "\n"), -1)[1:] {
			all[i] = append(all[i], strings.TrimSuffix(w, "\n"))
		}
	}
	return all
}

// aclPrefix begins lines whose last words HAProxy can be asked for.
const aclPrefix = "acl t path -m sub -- w "

// aclText is a configuration with one line each for the ends of lines.
func aclText(ends []string) string {
	var text strings.Builder
	text.WriteString("defaults\n mode http\n timeout client 1s\nfrontend f\n bind unix@f.sock\n")
	for _, end := range ends {
		text.WriteString(aclPrefix + end + "\n")
	}
	return text.String()
}

// randomEnds makes ends of lines out of all that has a meaning in them.
func randomEnds(random *rand.Rand, n int) []string {
	tokens := []string{
		"a", "b", "é", "\xff", " ", " ", " ", "\t", "\v", "\f", "\r", `"`, `"`, `'`, `'`, `\`, `\\`, `\ `, `\"`, `\'`, `\#`,
		`\n`, `\r`, `\t`, `\x41`, `\x2`, `\x0a`, `\xfF`, `\x00`, `\$`, `\q`, "#", "$", "{", "}", "$TWO", "${TWO}", "${TWO[*]}", "$NONE", "${NONE-c d}",
		`"$EMPTY"`, "${", ",", ";", "%", "[", "(", "-i", "x",
	}
	ends := make([]string, n)
	for i := range ends {
		for range 1 + random.IntN(9) {
			ends[i] += tokens[random.IntN(len(tokens))]
		}
	}
	return ends
}

// TestWordsAgree: the words that the reader is certain of are those that HAProxy reads, and it is
// certain of every line without variables that HAProxy accepts.
func TestWordsAgree(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ends := randomEnds(rand.New(rand.NewPCG(seed, 0)), 2000)
	for _, c := range splitCases() {
		if !strings.Contains(c.raw, "\x00") { // ends the file
			ends = append(ends, strings.TrimSuffix(c.raw, "\n"))
		}
	}
	ends = append(ends, strings.Repeat("w ", 56)+"w", strings.Repeat("w ", 57), strings.Repeat("w ", 57)+"w", strings.Repeat("w", 7000))
	haproxytest.Each(t, func(t haproxytest.T) {
		o := newOracle(t)
		var accepted, doubtful []string
		for _, end := range ends {
			if splitLine(aclPrefix + end).plain {
				accepted = append(accepted, end)
			} else {
				doubtful = append(doubtful, end)
			}
		}
		for some := range slices.Chunk(doubtful, 45) { // HAProxy gives up at 50 errors
			refused := o.refused(aclText(some))
			for i, end := range some {
				if !refused[6+i] {
					accepted = append(accepted, end)
				}
			}
		}
		for i, got := range o.patterns(accepted) {
			mustAgree(t, splitLine(aclPrefix+accepted[i]), got)
		}
		t.Logf("%d lines, %d of them accepted", len(ends), len(accepted))
	})
}

// mustAgree compares a line with the words that HAProxy has read behind its first six.
func mustAgree(t haproxytest.T, l line, words []string) {
	t.Helper()
	switch certain := l.words[6:max(6, l.known)]; {
	case l.plain:
		if diff := cmp.Diff(words, certain); diff != "" {
			t.Errorf("the line %q: words (-haproxy +reader):\n%s", l.raw, diff)
		}
	case l.known < len(l.words): // has a variable, a NUL or an empty word
		if len(words) < len(certain) || !slices.Equal(words[:len(certain)], certain) {
			t.Errorf("the line %q: haproxy reads %q, the reader is certain of %q", l.raw, words, certain)
		}
	default:
		t.Errorf("the line %q is only for haproxy to read, want certainty", l.raw)
	}
}
