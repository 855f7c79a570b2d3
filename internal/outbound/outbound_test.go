package outbound

import "testing"

func TestAddressOfLoopback(t *testing.T) {
	got, err := Address(t.Context(), "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != "127.0.0.1" {
		t.Errorf("source address towards 127.0.0.1 = %s, want 127.0.0.1", got)
	}
	if _, err := Address(t.Context(), "no port"); err == nil {
		t.Error("a target without a port was taken")
	}
}
