package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestExamsAreBounded: whatever is asked for, exams take no more than a burst and their share of the time, and
// ones that find nobody become rare. F9.
func TestExamsAreBounded(t *testing.T) {
	tests := map[string]struct {
		took   time.Duration
		nobody bool
		most   int // in an hour
	}{
		"short ones":            {100 * time.Millisecond, false, 3600},
		"long ones":             {2 * time.Second, false, 96},
		"very long ones":        {time.Minute, false, 5},
		"ones that find nobody": {100 * time.Millisecond, true, 17},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var x examining
				n, began := 0, time.Now()
				for time.Since(began) < time.Hour {
					time.Sleep(max(0, time.Until(x.next())))
					time.Sleep(tt.took)
					x.spend(tt.took)
					if n++; tt.nobody {
						x.nobody++
					}
				}
				if n > tt.most {
					t.Errorf("%d exams in an hour, want at most %d", n, tt.most)
				}
			})
		})
	}
}
