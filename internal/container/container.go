// Package container finds out in which container of a Docker engine this process runs, if in any.
package container

import (
	"bufio"
	"io"
	"os"
	"regexp"
	"strings"
)

// ID returns the id of the container that this process runs in, or "" if there is none.
func ID() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	return find(f)
}

// own matches the place in which the engine keeps the files that it writes for one container.
var own = regexp.MustCompile(`/containers/([0-9a-f]{64})/(hostname|hosts|resolv\.conf)$`)

// find looks for one of the files that the engine mounts into each of its containers. Fields of a
// line, from proc(5): id, parent, device, root within the file system, mount point, and more.
func find(mountinfo io.Reader) string {
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || !strings.HasPrefix(fields[4], "/etc/") {
			continue
		}
		if match := own.FindStringSubmatch(fields[3]); match != nil {
			return match[1]
		}
	}
	return ""
}
