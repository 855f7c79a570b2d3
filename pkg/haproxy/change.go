package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// commandError says that HAProxy refused a runtime command.
type commandError struct {
	statement, answer string
}

// Error names the statement and HAProxy's words.
func (e *commandError) Error() string {
	head, _, _ := strings.Cut(e.statement, payloadMark) // what is behind it may be a private key
	return fmt.Sprintf("haproxy answers %q to %q", e.answer, head)
}

// errOtherWorker says that commands went to a worker that we do not know.
var errOtherWorker = errors.New("another worker answered than the one that the commands were made for")

// statement is one line for the Runtime API.
type statement struct {
	text string
	// accept judges the answer; nil means the usual answers of success.
	accept func(answer string) bool
	// done is called when the answer was accepted; it may be nil.
	done func(answer string)
}

// change runs commands on the known worker, one after another. It goes on behind a refused one and
// returns the first refusal.
func (d *Driver) change(ctx context.Context, cmds []Command) error {
	if len(cmds) == 0 {
		return nil
	}
	if err := d.makeRoom(ctx, cmds); err != nil {
		return err
	}
	err := d.run(ctx, cmds)
	var refused *commandError
	if err == nil || errors.As(err, &refused) {
		d.mu.Lock()
		d.view.RuntimeCommands += uint64(len(cmds))
		d.mu.Unlock()
		d.cfg.Log.WithField("changes", someOf(cmds, Command.brief)).Debug("runtime commands sent")
	}
	return err
}

// run sends commands in their order: all at once, but for whole maps, whose statements need an answer
// to those before them.
func (d *Driver) run(ctx context.Context, cmds []Command) error {
	var all []statement
	var refusals error
	for _, c := range cmds {
		if c.Op != OpMapReplace {
			all = append(all, d.statements(c)...)
			continue
		}
		for _, next := range []func() error{
			func() error { return d.send(ctx, all) },
			func() error { return d.replaceMap(ctx, c) },
		} {
			err := next()
			if _, refused := errors.AsType[*commandError](err); err != nil && !refused {
				return err
			}
			refusals = errors.Join(refusals, err)
		}
		all = nil
	}
	if len(all) == 0 {
		return refusals
	}
	return errors.Join(refusals, d.send(ctx, all))
}

// newVersion is HAProxy's answer to the preparation of a map.
var newVersion = regexp.MustCompile(`^New version created: (\d+)$`)

// replaceMap puts a whole map in force as one transaction: no request sees a part of it.
func (d *Driver) replaceMap(ctx context.Context, c Command) error {
	version := ""
	err := d.send(ctx, []statement{{
		text:   "prepare map " + c.File,
		accept: newVersion.MatchString,
		done:   func(answer string) { version = newVersion.FindStringSubmatch(answer)[1] },
	}})
	if err != nil {
		return err
	}
	var fill []statement
	for _, part := range payloads(c.Entries) {
		fill = append(fill, statement{text: "add map @" + version + " " + c.File + payloadMark + part})
	}
	if len(fill) > 0 {
		err = d.send(ctx, fill)
	}
	if err != nil {
		return errors.Join(err, d.send(ctx, []statement{{text: "clear map @" + version + " " + c.File}}))
	}
	return d.send(ctx, []statement{{text: "commit map @" + version + " " + c.File}})
}

// payloads are the entries of a map in portions that HAProxy takes.
func payloads(entries []Entry) []string {
	var all []string
	var part strings.Builder
	for _, e := range entries {
		row := e.Key + " " + e.Value + "\n"
		if part.Len()+len(row) > maxLine {
			all = append(all, part.String())
			part.Reset()
		}
		part.WriteString(row)
	}
	if part.Len() > 0 {
		all = append(all, part.String())
	}
	return all
}

// send runs statements on the known worker and judges their answers.
func (d *Driver) send(ctx context.Context, all []statement) error {
	if d.master.seat() != d.seat {
		return errOtherMaster // the next attempt finds out which worker is whose
	}
	texts := []string{"show info"}
	for _, s := range all {
		texts = append(texts, s.text)
	}
	answers, err := d.api.batch(ctx, texts)
	if err != nil {
		return err
	}
	if i, err := parseInfo(answers[0]); err != nil || i.worker != d.worker {
		return errors.Join(errOtherWorker, err)
	}
	for i, s := range all {
		answer := answers[i+1]
		accept := s.accept
		if accept == nil {
			accept = succeeded
		}
		if !accept(answer) {
			err = errors.Join(err, &commandError{statement: s.text, answer: answer})
		} else if s.done != nil {
			s.done(answer)
		}
	}
	return err
}

// statements are what a command sends. A server that comes back while it waits for its deletion is
// put in service again.
func (d *Driver) statements(c Command) []statement {
	var all []statement
	lines := c.lines()
	if old, leaving := d.leaving[c.target()]; leaving && c.Op == OpAdd && sameServer(old.Command, c) {
		lines = Command{Op: OpWeight, Backend: c.Backend, Server: c.Server, Weight: c.Weight}.lines()
		if !c.Disabled {
			lines = append(lines, Command{Op: OpEnable, Backend: c.Backend, Server: c.Server}.lines()...)
		}
		delete(d.leaving, c.target())
	}
	for _, text := range lines {
		all = append(all, statement{text: text})
	}
	if c.Op == OpRemove {
		all[0].accept = func(a string) bool { return succeeded(a) || a == answerNone }
		all[1].accept = func(string) bool { return true }
		all[1].done = func(answer string) { d.departs(c, answer) }
	}
	return all
}

// sameServer tells whether a leaving server is the one that is to be added.
func sameServer(a, b Command) bool {
	return a.Address == b.Address && slices.Equal(a.Words, b.Words)
}

// departs notes a server that HAProxy did not delete at once.
func (d *Driver) departs(c Command, answer string) {
	if answer == answerNone || succeeded(answer) {
		delete(d.leaving, c.target())
		return
	}
	d.leaving[c.target()] = &departure{Command: c, Since: time.Now()}
	d.poke()
}

// makeRoom deletes leaving servers whose names are to be used again for other servers.
func (d *Driver) makeRoom(ctx context.Context, cmds []Command) error {
	var all []statement
	for _, c := range cmds {
		if old, leaving := d.leaving[c.target()]; leaving && c.Op == OpAdd && !sameServer(old.Command, c) {
			all = append(all, statement{
				text:   "del server " + c.target(),
				accept: func(a string) bool { return succeeded(a) || a == answerNone },
				done:   func(string) { delete(d.leaving, c.target()) },
			})
		}
	}
	if len(all) == 0 {
		return nil
	}
	return d.send(ctx, all)
}

// deleteLeaving tries to delete the servers that wait for it. One whose sessions last longer than
// the limit loses them.
func (d *Driver) deleteLeaving(ctx context.Context) error {
	var all []statement
	for _, target := range slices.Sorted(maps.Keys(d.leaving)) {
		gone := d.leaving[target]
		if time.Since(gone.Since) > cmp.Or(gone.Drain, d.cfg.DrainLimit) {
			all = append(all, statement{
				text:   "shutdown sessions server " + target,
				accept: func(string) bool { return true },
			})
		}
		all = append(all, statement{
			text:   "del server " + target,
			accept: func(string) bool { return true },
			done: func(answer string) {
				if succeeded(answer) || answer == answerNone {
					delete(d.leaving, target)
				}
			},
		})
	}
	if len(all) == 0 {
		return nil
	}
	err := d.send(ctx, all)
	if errors.Is(err, errOtherWorker) {
		clear(d.leaving) // the next worker never knew them
		return nil
	}
	return err
}
