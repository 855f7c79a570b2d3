package register

import (
	"fmt"
	"time"
)

// What it costs to turn from passing to failing again and again. With these numbers an instance is
// let through at most ten times in the first minute or so, and then once a minute.
const (
	freeTurns   = 3               // that cost nothing: a redeployment, a restart by hand and one more
	firstHold   = time.Second     // for the next, then twice as long for each further one
	longestHold = time.Minute     // …
	mostTurns   = freeTurns + 7   // that count: 1 s doubled six times is the longest
	quietTime   = 2 * time.Minute // without a turn halves what counts
)

// damper counts how often the instance of one id has turned, over all runs of its container, and says
// how long it must pass its check before it is let through again. It costs nothing until there are
// more turns than a healthy one makes.
type damper struct {
	passing bool
	up      time.Time // since when it passes
	turns   int       // that count
	all     int       // since then, for people
	since   time.Time // the first of them
	last    time.Time // the last of them, or when they were halved
	told    bool      // that it is held back
}

// observe takes down whether it passes now.
func (d *damper) observe(passing bool, now time.Time) {
	d.decay(now)
	if passing == d.passing {
		return
	}
	d.passing = passing
	if passing {
		d.up = now
		return
	}
	if d.all == 0 {
		d.since = now
	}
	d.turns, d.all, d.last = min(d.turns+1, mostTurns), d.all+1, now
}

// decay halves what counts for each quiet time that has passed.
func (d *damper) decay(now time.Time) {
	for d.turns > 0 && now.Sub(d.last) >= quietTime {
		d.turns, d.last = d.turns/2, d.last.Add(quietTime)
	}
	if d.turns == 0 {
		d.all, d.told = 0, false
	}
}

// idle tells whether nothing is known that counts.
func (d *damper) idle() bool { return d.turns == 0 && !d.passing }

// until is when it may be let through, if it goes on passing.
func (d *damper) until() time.Time {
	if d.turns <= freeTurns {
		return d.up
	}
	return d.up.Add(min(firstHold<<(d.turns-freeTurns-1), longestHold))
}

// reason says why it is not let through although it passes.
func (d *damper) reason() string {
	const clock = "15:04:05 UTC"
	return fmt.Sprintf("it passes now, but has turned %d times since %s: held back until %s, and for longer with each further turn",
		d.all, d.since.UTC().Format(clock), d.until().UTC().Format(clock))
}
