package haproxy

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sessionsLimit bounds what one worker is asked, for an old one may hang.
const sessionsLimit = 2 * time.Second

// Endpoint is a server in the words of the text, and where it is.
type Endpoint struct {
	Name    string
	Address string // address and port
}

// Sessions counts what is still open on these servers, and what waits for them, in the worker that serves
// and in the old ones. (An old one does not learn that a server is out of service: HAProxy changes none in
// a worker that is stopping. A client whose idle connection it still has may send it one more request.)
// Servers are found by their names, and if there are none of these names, as in a template with names of
// its own, by their addresses. It is an error if a worker does not answer.
func (d *Driver) Sessions(ctx context.Context, of []Endpoint) (int, error) {
	before, err := d.master.processes(ctx)
	if err != nil {
		return 0, err
	}
	if before.current() == 0 {
		return 0, errNoWorker
	}
	sum := 0
	for _, w := range before.workers {
		n, err := d.master.open(ctx, w.pid, of)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	after, err := d.master.processes(ctx)
	if err != nil {
		return 0, err
	}
	if after.current() != before.current() {
		return 0, errOtherWorker // and the new one was not asked
	}
	return sum, nil
}

// open asks one worker how much is open on servers. One that has ended meanwhile has nothing.
func (m masterCLI) open(ctx context.Context, pid int, of []Endpoint) (int, error) {
	limited, cancel := context.WithTimeout(ctx, sessionsLimit)
	defer cancel()
	answer, err := ask(limited, m.path, "@!"+strconv.Itoa(pid)+" show stat -1 4 -1")
	n := 0
	if err == nil {
		n, err = parseOpen(answer, of)
	}
	if err == nil {
		return n, nil
	}
	now, lost := m.processes(ctx)
	if lost == nil && !slices.ContainsFunc(now.workers, func(p process) bool { return p.pid == pid }) {
		return 0, nil
	}
	return 0, errors.Join(fmt.Errorf("worker %d of haproxy does not tell its sessions", pid), err, lost)
}

// parseOpen adds up what an answer to `show stat` tells of servers.
func parseOpen(answer string, of []Endpoint) (int, error) {
	head, rows, _ := strings.Cut(answer, "\n")
	names, isStat := strings.CutPrefix(head, "# ")
	t := statTable{columns: strings.Split(names, ","), rows: rows}
	for _, needed := range []string{"pxname", "svname", "scur", "qcur"} {
		if !isStat || !slices.Contains(t.columns, needed) {
			return 0, fmt.Errorf("the answer %.80q is not a list of statistics", answer)
		}
	}
	byName, byAddress := map[string]bool{}, map[string]bool{}
	for _, e := range of {
		byName[e.Name], byAddress[e.Address] = true, true
	}
	n, found, err := t.open("svname", byName)
	if err == nil && !found {
		n, _, err = t.open("addr", byAddress)
	}
	return n, err
}

// statTable is an answer to `show stat`.
type statTable struct {
	columns []string
	rows    string
}

// open adds up the rows with one of these values in a column, and tells whether there are any.
func (t statTable) open(column string, values map[string]bool) (sum int, found bool, err error) {
	for line := range strings.Lines(t.rows) {
		// Most rows are of other servers, and need not be read: the name has no comma in it.
		if _, after, _ := strings.Cut(line, ","); column == "svname" && !values[firstField(after)] || strings.TrimSpace(line) == "" {
			continue
		}
		row, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil {
			return 0, false, fmt.Errorf("statistics: %w", err)
		}
		if values[t.get(row, column)] {
			runs, _ := strconv.Atoi(t.get(row, "scur")) // empty is none
			waits, _ := strconv.Atoi(t.get(row, "qcur"))
			sum, found = sum+runs+waits, true
		}
	}
	return sum, found, nil
}

// get returns a row's value in a column, "" if it has none.
func (t statTable) get(row []string, column string) string {
	if at := slices.Index(t.columns, column); at >= 0 && at < len(row) {
		return row[at]
	}
	return ""
}

// firstField is what stands before the first comma.
func firstField(row string) string {
	field, _, _ := strings.Cut(row, ",")
	return field
}
