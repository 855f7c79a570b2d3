package haproxy

import "testing"

// TestDifferencesInWords: what was changed by hand is told by name, with what it was, and not endlessly.
func TestDifferencesInWords(t *testing.T) {
	const text = `backend be
    server s1 192.0.2.1:80
    server s2 192.0.2.2:80 weight 5
    server s3 192.0.2.3:80 disabled
    server s4 192.0.2.4:80 check
    server s5 192.0.2.5:80
    server s6 192.0.2.6:80
`
	live := []liveServer{
		{backend: "be", name: "s1", address: "192.0.2.1:80", weight: 1, maint: true},
		{backend: "be", name: "s2", address: "192.0.2.2:80", weight: 9, drained: true},
		{backend: "be", name: "s3", address: "192.0.2.3:80", weight: 1},
		{backend: "be", name: "s4", address: "192.0.2.4:80", weight: 1, unchecked: true},
		{backend: "be", name: "s5", address: "192.0.2.50:80", weight: 1},
		{backend: "be", name: "s9", address: "192.0.2.9:80", weight: 1},
	}
	m := compare(text, live, Capabilities{}, nil)
	want := "be/s1 is out of service; be/s2 has weight 9 instead of 5, is drained; be/s3 is in service; be/s4 is not checked; " +
		"be/s5 runs with another address; and 2 more"
	if got := some(m.what); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want = "be/s6 is missing; be/s9 is in service and not in the text"
	if got := some(m.what[5:]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
