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
func (j *judge) splits(records []*record, decided map[string]*decision) {
	claimed := make(map[string]claims, len(records))
	for _, r := range records {
		claimed[r.claims.name] = r.claims
	}
	for _, r := range records {
		if d := decided[r.claims.name]; r.claims.split != "" && d.routed() {
			j.split(r.claims, d, claimed, decided)
		}
	}
}

// split divides the requests of one service.
func (j *judge) split(c claims, d *decision, claimed map[string]claims, decided map[string]*decision) {
	shares, first := sharesOf(c.name, c.split), 0
	for at, part := range cut(shares) {
		to, begin := shares[at].service, first
		first += part
		if to == c.name {
			continue
		}
		j.targets[to] = true
		other, known := claimed[to]
		why, possible := refuseShare(c, to, other, known)
		if why != "" && part > 0 {
			d.say(fmt.Sprintf("the share of %s in sidekick.split stays here: %s", to, why))
		}
		if !possible {
			continue
		}
		decided[to].split = true
		for n := range part {
			d.slices = append(d.slices, Slice{Number: begin + n, Service: to, Backend: backendName(to)})
		}
	}
}

// refuseShare says why a service gets no requests of another one's split, or "", and whether it may get some
// once its servers are ready: HAProxy itself looks whether there is one.
func refuseShare(from claims, name string, to claims, known bool) (why string, possible bool) {
	switch {
	case !known:
		return fmt.Sprintf("there is no service %s: start it, or take it out", name), false
	case to.mode != from.mode:
		return fmt.Sprintf("its mode is %s, and this one's %s: give both one mode", to.mode, from.mode), false
	case !to.usable:
		return "it has no instance that takes requests now", true
	}
	return "", true
}
