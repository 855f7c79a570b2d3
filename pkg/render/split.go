package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hundred is into how many slices the requests of a service are cut that divides them.
const hundred = 100

// Slice is a hundredth of a service's requests, and to which other service it goes.
type Slice struct {
	Number  int    // 0 to 99
	Service string // to which it goes
	Backend string // that service's
}

// share is what one service gets of the requests that are led to another one.
type share struct {
	service string
	weight  int
}

// sharesOf reads what sidekick.split of a service says: SERVICE:WEIGHT,… A service that does not name
// itself keeps what the others leave of 100: whoever writes "canary:10" means a tenth.
func sharesOf(name, text string) []share {
	var shares []share
	rest, named := hundred, false
	for item := range strings.SplitSeq(text, ",") {
		to, number, _ := strings.Cut(strings.Trim(item, " "), ":")
		weight, _ := strconv.Atoi(number) // validated when it was decoded
		shares = append(shares, share{to, weight})
		rest, named = rest-weight, named || to == name
	}
	if !named {
		shares = slices.Insert(shares, 0, share{name, max(0, rest)})
	}
	return shares
}

// cut gives each share its slices: as many as its weight is of the sum, but one at least unless the weight is
// 0. The largest takes what rounding leaves.
func cut(shares []share) []int {
	sum, largest := 0, 0
	for at, s := range shares {
		if sum += s.weight; s.weight > shares[largest].weight {
			largest = at
		}
	}
	parts := make([]int, len(shares))
	if sum == 0 {
		return parts
	}
	left := hundred
	for at, s := range shares {
		parts[at] = max((s.weight*hundred+sum/2)/sum, min(s.weight, 1))
		left -= parts[at]
	}
	parts[largest] += left
	return parts
}

// splits divides the requests of services over others. What comes by a split is not divided once more, so
// that no two services can send requests in a circle.
func (j *judge) splits(records []*record, decided []decision) {
	splits := func(r *record) bool { return r.claims.split != "" }
	if !slices.ContainsFunc(records, splits) {
		return
	}
	places := make(map[string]int, len(records))
	for at, r := range records {
		places[r.claims.name] = at
	}
	for at, r := range records {
		if splits(r) && decided[at].routed() {
			j.split(at, records, decided, places)
		}
	}
}

// split divides the requests of one service.
func (j *judge) split(from int, records []*record, decided []decision, places map[string]int) {
	c, d := records[from].claims, &decided[from]
	shares, first := sharesOf(c.name, c.split), 0
	for i, part := range cut(shares) {
		to, begin := shares[i].service, first
		first += part
		if to == c.name {
			continue
		}
		j.targets[to] = true
		at, known := places[to]
		if !known {
			d.keep(part, to, fmt.Sprintf("there is no service %s: start it, or take it out", to))
			continue
		}
		why, possible := refuseShare(c, records[at].claims)
		d.keep(part, to, why)
		if !possible {
			continue
		}
		decided[at].split = true
		if records[at].claims.closed { // HAProxy sees servers there
			continue
		}
		d.patience = max(d.patience, records[at].claims.patience)
		for n := range part {
			d.slices = append(d.slices, Slice{Number: begin + n, Service: to, Backend: backendName(to)})
		}
	}
}

// keep says why the share of another service stays.
func (d *decision) keep(part int, to, why string) {
	if part > 0 && why != "" {
		d.say(fmt.Sprintf("the share of %s in sidekick.split stays here: %s", to, why))
	}
}

// refuseShare says why a service gets no requests of another one's split, or "", and whether it may get some
// once it is in order: whether a server is ready HAProxy itself looks.
func refuseShare(from, to claims) (why string, possible bool) {
	switch {
	case to.mode != from.mode:
		return fmt.Sprintf("its mode is %s, and this one's %s: give both one mode", to.mode, from.mode), false
	case from.auth != "" && to.auth != from.auth:
		return fmt.Sprintf("it would be served to whom sidekick.auth=%s keeps out: give it that label too", from.auth), false
	case to.closed:
		return fmt.Sprintf("nobody is let in to service %s now: mend what its own line says", to.name), true
	case !to.usable:
		return "it has no instance that takes requests now", true
	}
	return "", true
}
