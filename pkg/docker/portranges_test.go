package docker

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A container that exposes a range is read like one that exposes its ports one by one (P7): the client
// by itself fails for all of it. What is no inspection passes as it is.
func TestSinglePorts(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"none": {in: `{"Config":{"ExposedPorts":{"80/tcp":{}}}}`, want: `{"Config":{"ExposedPorts":{"80/tcp":{}}}}`},
		"exposed": {
			in:   `{"Id":"x","Config":{"Labels":{"a":"8000-8001/tcp"},"ExposedPorts":{"80/tcp":{},"8000-8002/tcp":{},"90-90/udp":{}}}}`,
			want: `{"Id":"x","Config":{"Labels":{"a":"8000-8001/tcp"},"ExposedPorts":{"80/tcp":{},"8000/tcp":{},"8001/tcp":{},"8002/tcp":{},"90/udp":{}}}}`,
		},
		"published": {
			in:   `{"HostConfig":{"NetworkMode":"x","PortBindings":{"1-2/tcp":null}},"NetworkSettings":{"Ports":{"1-2/tcp":null}}}`,
			want: `{"HostConfig":{"NetworkMode":"x","PortBindings":{"1/tcp":null,"2/tcp":null}},"NetworkSettings":{"Ports":{"1/tcp":null,"2/tcp":null}}}`,
		},
		"up to the last port": {in: `{"Config":{"ExposedPorts":{"65535-65535/tcp":{}}}}`, want: `{"Config":{"ExposedPorts":{"65535/tcp":{}}}}`},
		"no range":            {in: `{"Config":{"ExposedPorts":{"a-b/tcp":{}}}}`, want: `{"Config":{"ExposedPorts":{"a-b/tcp":{}}}}`},
		"nonsense":            {in: `"x"`, want: `"x"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got, want any
			if err := json.Unmarshal(singlePorts([]byte(tt.in)), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tt.in, diff)
			}
		})
	}
}
