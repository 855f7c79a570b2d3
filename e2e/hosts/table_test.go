package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// results is the directory for what tests leave behind.
const results = "../../.stages"

// conclude asserts that nothing was lost, and writes the fault's row.
func (c *cluster) conclude(f fault, s spell, v verdict) {
	c.Helper()
	took := s.right.Sub(s.mended).Seconds()
	c.Logf("from %s on: %d requests, %d lost; %s; slowest %s; right again after %.1f s", s.from.Format("15:04:05.000"), v.sent, v.lost, v.excused(), v.slowest, took)
	for _, example := range v.examples[:min(len(v.examples), 20)] {
		c.Log(example)
	}
	if v.lost > 0 || v.sent == 0 {
		c.Errorf("%d of %d requests were lost, want none of many", v.lost, v.sent)
	}
	c.rows = append(c.rows, fmt.Sprintf("| %s | %s | %d | %d | %s | %.1f s | %.1f s | %s |", f.name, f.what, v.sent, v.lost, v.excused(), v.slowest.Seconds(), took, c.forgotten))
}

// report prints the table, and writes it to a file.
func (c *cluster) report() {
	c.Helper()
	table := strings.Join(append([]string{
		"| fault | what is done | requests | lost | excused | slowest answer | right again after | the lost host is forgotten after |",
		"|---|---|---|---|---|---|---|---|",
	}, c.rows...), "\n") + "\n"
	c.Logf("TTL %s:\n%s", ttl, table)
	c.check(os.MkdirAll(results, 0o755))
	c.check(os.WriteFile(filepath.Join(results, "faults.md"), []byte(table), 0o644))
}
