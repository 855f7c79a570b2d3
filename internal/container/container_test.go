package container

import (
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	const id = "3f2a91c0de12b7f0a1d5c6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b"
	for _, c := range []struct{ name, mountinfo, want string }{
		{"on the host", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n25 22 0:22 / /proc rw - proc proc rw\n", ""},
		{
			"in a container",
			"1 0 0:51 / / rw - overlay overlay rw\n" +
				"2 1 8:1 /var/lib/docker/containers/" + id + "/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n", id,
		},
		{
			"with the engine's data on a file system of its own",
			"2 1 8:2 /containers/" + id + "/hostname /etc/hostname rw - ext4 /dev/sdb1 rw\n", id,
		},
		{
			"on a host, where the engine has mounted another container's",
			"2 1 8:1 /containers/" + id + "/hostname /mnt/etc/hostname rw - ext4 /dev/sda1 rw\n", "",
		},
		{"a line that is cut off", "2 1 8:1\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := find(strings.NewReader(c.mountinfo)); got != c.want {
				t.Errorf("find = %q, want %q", got, c.want)
			}
		})
	}
}
