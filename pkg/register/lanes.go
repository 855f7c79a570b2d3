package register

import (
	"context"
	"sync"
)

const (
	dialsAtAll   = 64 // checks under way at a time
	dialsPerLane = 2  // of one container, so that one whose ports hang does not use up all
	dialsHanging = 32 // of candidates whose last check hung, so that many of them do not either
)

// lanes bounds how many checks are under way at a time: of one container, of those that hang, and of all
// together.
type lanes struct {
	all, hanging chan struct{}

	mu    sync.Mutex
	lanes map[string]*lane // by what shares one
}

// lane is what the checks of one container have to share.
type lane struct {
	slots chan struct{}
	users int // candidates
}

func newLanes() *lanes {
	return &lanes{all: make(chan struct{}, dialsAtAll), hanging: make(chan struct{}, dialsHanging), lanes: map[string]*lane{}}
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

// enter waits for a turn in one's own lane, with that in hand among those that hang if the last check did,
// and only then for one among all.
func (l *lanes) enter(ctx context.Context, own *lane, hangs bool) (exit func(), err error) {
	queue := []chan struct{}{own.slots}
	if hangs {
		queue = append(queue, l.hanging)
	}
	queue = append(queue, l.all)
	var held []chan struct{}
	leave := func() {
		for _, slots := range held {
			<-slots
		}
	}
	for _, slots := range queue {
		select {
		case slots <- struct{}{}:
			held = append(held, slots)
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}
