package render

// ProxyCheck says whether HAProxy checks servers by itself, besides the agents on their hosts: it sees
// what these cannot, such as a path between two hosts that is broken.
type ProxyCheck string

// The values of --proxy-check.
const (
	ProxyCheckAuto ProxyCheck = "auto" // on while there are few servers
	ProxyCheckOn   ProxyCheck = "on"
	ProxyCheckOff  ProxyCheck = "off"
)

// fewServers is up to how many servers auto is on: every proxy checks all of them.
const fewServers = 2000

// on decides for a catalog with that many servers.
func (p ProxyCheck) on(servers int) bool {
	return p == ProxyCheckOn || p == ProxyCheckAuto && servers <= fewServers
}
