package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// masterCLI speaks to the master process.
type masterCLI struct{ path string }

// processes is what `show proc` tells.
type processes struct {
	master  int
	reloads int // every attempt counts
	failed  int // attempts since the last success
	workers []process
	seat    seat // where they were asked; only noted before a reload
}

// process is one worker; the current one has seen no reload.
type process struct {
	pid, reloads int
}

// after tells whether the processes are those of another master than the ones before. In a container
// every master has the same number; but one that takes a reload counts it when it binds its socket anew.
func (p processes) after(before processes, now seat) bool {
	return p.master != before.master || p.reloads < before.reloads || p.reloads == before.reloads && now != before.seat
}

// current is the worker that serves, 0 if there is none.
func (p processes) current() int {
	if len(p.workers) > 0 && p.workers[0].reloads == 0 {
		return p.workers[0].pid
	}
	return 0
}

// old are the workers that only finish what they began.
func (p processes) old() []int {
	var pids []int
	for _, w := range p.workers {
		if w.pid != p.current() {
			pids = append(pids, w.pid)
		}
	}
	return pids
}

// worker asks the current worker who it is by way of its master.
func (m masterCLI) worker(ctx context.Context) (Worker, error) {
	answer, err := ask(ctx, m.path, "@1 show info")
	if err != nil {
		return Worker{}, err
	}
	i, err := parseInfo(answer)
	if err != nil {
		return Worker{}, fmt.Errorf("master socket %s: %w", m.path, err)
	}
	return i.worker, nil
}

// processes asks for all processes.
func (m masterCLI) processes(ctx context.Context) (processes, error) {
	answer, err := ask(ctx, m.path, "show proc")
	if err != nil {
		return processes{}, err
	}
	p, ok := parseProcesses(answer)
	if !ok {
		return processes{}, fmt.Errorf("master socket %s: the answer %.80q is not a list of processes", m.path, answer)
	}
	return p, nil
}

// parseProcesses reads the answer to `show proc`.
func parseProcesses(answer string) (p processes, ok bool) {
	for row := range strings.Lines(answer) {
		f := strings.Fields(row)
		if len(f) < 3 || strings.HasPrefix(row, "#") {
			continue
		}
		pid, err1 := strconv.Atoi(f[0])
		reloads, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil {
			continue
		}
		switch f[1] {
		case "master":
			p.master, p.reloads, ok = pid, reloads, true
			if len(f) > 4 && f[3] == "[failed:" {
				p.failed, _ = strconv.Atoi(strings.TrimSuffix(f[4], "]")) // 0 then
			}
		case "worker":
			p.workers = append(p.workers, process{pid: pid, reloads: reloads})
		}
	}
	return p, ok
}

// pollEvery is the pause between two looks at a reload that goes on.
const pollEvery = 10 * time.Millisecond

// errReloadFailed says that the master tried to load the new text and could not.
var errReloadFailed = errors.New("the master reports a failed reload")

// reload makes the master load the text on disk, before ctx ends, and returns the new worker's process id.
// It must not run twice at once: HAProxy 2.6 loses a reload that comes while another one goes on. On
// errReloadFailed words is what the master itself tells about it, which 2.6 does not.
func (m masterCLI) reload(ctx context.Context) (worker int, words string, err error) {
	limited, cancel := context.WithTimeout(ctx, masterLimit)
	defer cancel()
	before, err := m.settled(limited, nil, func(processes) bool { return true })
	if err != nil {
		return 0, "", err
	}
	before.seat = m.seat()
	for {
		// 2.6 answers nothing, or resets the connection; newer ones answer Success=0 or 1 and the log.
		// All are confirmed by looking.
		answer, err := ask(ctx, m.path, "reload")
		if rest, failed := strings.CutPrefix(answer, "Success=0"); failed && err == nil {
			return 0, strings.Join(alertsOf(rest), "; "), errReloadFailed
		}
		p, err := m.settled(ctx, &before, func(p processes) bool {
			return p.reloads > before.reloads && (p.failed > 0 || p.current() != 0)
		})
		switch {
		case errors.Is(err, errLost):
			continue
		case err != nil:
			return 0, "", fmt.Errorf("wait for the reload: %w", err)
		case p.failed > 0:
			return 0, "", errReloadFailed
		default:
			return p.current(), "", nil
		}
	}
}

const (
	masterLimit = 5 * time.Second
	lostAfter   = time.Second
)

// errLost says that the master answers and has not seen our command: 2.6 loses one that comes while
// it executes itself anew, also after its start.
var errLost = errors.New("the master did not take the command")

// errNoWorker says that the worker that a reload started is gone already, and the others with it.
var errNoWorker = errors.New("the master has no worker")

// errOtherMaster says that HAProxy was started anew while its reload was waited for.
var errOtherMaster = errors.New("another master answers than the one that was asked")

// settled waits for processes as they are wanted. While it executes itself anew, the master refuses
// and resets connections. A command was sent if before, the processes then, is not nil.
func (m masterCLI) settled(ctx context.Context, before *processes, ok func(processes) bool) (processes, error) {
	lost := time.Now().Add(lostAfter)
	for {
		now := m.seat() // first, so that the answer is not from before it
		p, err := m.processes(ctx)
		switch {
		case err == nil && before != nil && p.after(*before, now):
			return p, errOtherMaster
		case err == nil && ok(p):
			return p, nil
		case err == nil && before != nil && p.reloads == before.reloads && time.Now().After(lost):
			return p, errLost
		case err == nil && before != nil && p.failed == 0 && time.Now().After(lost):
			return p, errNoWorker
		}
		if pause(ctx, pollEvery) != nil {
			return processes{}, errors.Join(ctx.Err(), err)
		}
	}
}

// pause waits for a time or the end of ctx, whichever is first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
