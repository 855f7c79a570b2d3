package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The page says of the model what the code does.
func TestPageIsFresh(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(root + "/" + pagePath)
	if err != nil {
		t.Fatal(err)
	}
	want, err := fresh(root, string(page))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(page), want); diff != "" {
		t.Errorf("%s is stale: run make docs (-page +code):\n%s", pagePath, diff)
	}
}
