// Package filepoll follows the content of one file. It looks at the file instead of subscribing to
// changes, because a file mounted into a container, or one on a network, changes without a
// notice; reading a template once a second costs nothing that could be measured.
package filepoll

import (
	"context"
	"os"
	"time"
)

// Content is a file's text, or why it cannot be read.
type Content struct {
	Text string
	Err  error
}

// Run sends the content of the file at path, and again whenever it differs from what was sent,
// until ctx is cancelled.
func Run(ctx context.Context, path string, every time.Duration, out chan<- Content) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var sent Content
	for first := true; ; first = false {
		if now := read(path); first || !equal(now, sent) {
			select {
			case out <- now:
				sent = now
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func read(path string) Content {
	b, err := os.ReadFile(path)
	return Content{Text: string(b), Err: err}
}

func equal(a, b Content) bool {
	return a.Text == b.Text && (a.Err == nil) == (b.Err == nil) && (a.Err == nil || a.Err.Error() == b.Err.Error())
}
