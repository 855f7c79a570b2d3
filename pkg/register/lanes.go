package register

import (
	"context"
	"sync"
)

const (
	dialsAtAll   = 64 // checks under way at a time
	dialsPerLane = 2  // of one container, so that one whose ports hang does not use up all
)

// lanes bounds how many checks are under way at a time: of one container, and of all together.
type lanes struct {
	all chan struct{}

	mu    sync.Mutex
	lanes map[string]*lane // by what shares one
}

// lane is what the checks of one container have to share.
type lane struct {
	slots chan struct{}
	users int // candidates
}

func newLanes() *lanes {
	return &lanes{all: make(chan struct{}, dialsAtAll), lanes: map[string]*lane{}}
}

// join returns the lane of that name; leave gives it up.
func (l *lanes) join(name string) (joined *lane, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	joined = l.lanes[name]
	if joined == nil {
		joined = &lane{slots: make(chan struct{}, dialsPerLane)}
		l.lanes[name] = joined
	}
	joined.users++
	return joined, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if joined.users--; joined.users == 0 {
			delete(l.lanes, name)
		}
	}
}

// enter waits for a turn in one's own lane, and only with that in hand for one among all.
func (l *lanes) enter(ctx context.Context, own *lane) (exit func(), err error) {
	select {
	case own.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case l.all <- struct{}{}:
		return func() { <-l.all; <-own.slots }, nil
	case <-ctx.Done():
		<-own.slots
		return nil, ctx.Err()
	}
}
