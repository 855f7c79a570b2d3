package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// README's table of settings is the code's: a row for each, in the code's order. -update writes it.
func TestReadmeSettings(t *testing.T) {
	const path, begin, end = "../../README.md", "| flag | default | meaning |\n|---|---|---|\n", "\n\n"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), begin)
	if !ok {
		t.Fatalf("README.md has no table that begins with %q", begin)
	}
	got, after, _ := strings.Cut(rest, end)
	want := strings.Join(settingsTable(), "\n")
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(got, "\n"), settingsTable()); diff != "" {
		t.Errorf("README.md's settings differ from the code's; `make golden` writes them (- README, + code):\n%s", diff)
	}
}

// settingsTable returns the rows that README.md should have.
func settingsTable() []string {
	var rows []string
	s := newSettings()
	s.all.SortFlags = false
	s.all.VisitAll(func(f *pflag.Flag) {
		value := f.DefValue
		if value != "" {
			value = "`" + value + "`"
		}
		variable, usage := pflag.UnquoteUsage(f)
		flag := f.Name
		if variable != "string" && variable != "duration" && variable != "stringToString" {
			flag += " " + variable
		}
		rows = append(rows, fmt.Sprintf("| `--%s` | %s | %s |", flag, value, usage))
	})
	return rows
}

// README's table of labels has each label that there is, and no other.
func TestReadmeLabels(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "| label | meaning | default |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var got []string
	for row := range strings.Lines(table) {
		got = append(got, labelsOf(strings.Split(row, "|")[1])...)
	}
	want := append(service.LabelNames(), "enable")
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("README.md's labels differ from the code's (- code, + README):\n%s", diff)
	}
}

// labelsOf returns the labels of a cell, without "sidekick." and what stands for a name of the user's choice.
// In `sidekick.a.b`, `.c` the second is sidekick.a.c.
func labelsOf(cell string) (names []string) {
	group := ""
	for i, word := range strings.Split(cell, "`") {
		if i%2 == 0 {
			continue // between two of them
		}
		if strings.HasPrefix(word, ".") {
			word = group + word
		}
		group = word[:strings.LastIndex(word, ".")]
		names = append(names, strings.TrimRight(strings.TrimPrefix(word, "sidekick."), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
	}
	return names
}

// Every setting is found by its environment variable too; none clashes with another.
func TestEnvironmentNames(t *testing.T) {
	seen := map[string]string{}
	newSettings().all.VisitAll(func(f *pflag.Flag) {
		name := envName(f.Name)
		if other, ok := seen[name]; ok {
			t.Errorf("%s stands for both --%s and --%s", name, f.Name, other)
		}
		seen[name] = f.Name
	})
	if got := seen["SIDEKICK_HAPROXY_MASTER_SOCKET"]; got != "haproxy-master-socket" {
		t.Errorf("SIDEKICK_HAPROXY_MASTER_SOCKET stands for %q", got)
	}
}
