package convention

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const servicePrefix = "SERVICE_"

// longestMeta is how many bytes of a mark that is not known are kept.
const longestMeta = 256

// mostPorts is of how many ports of one container services are made.
const mostPorts = 64

// telling are the names behind SERVICE_ or SERVICE_<port>_ by which a container is known to be meant
// for registrator; others may mean something to the application only.
func telling(name string) bool {
	return name == "name" || name == "tags" || name == "id" || name == "ignore" || strings.HasPrefix(name, "check_")
}

// registratorMark takes a mark's name apart: its port, 0 for all, and what is behind that.
func registratorMark(full string) (port uint16, name string, ok bool) {
	rest, ok := strings.CutPrefix(full, servicePrefix)
	if !ok || rest == "" {
		return 0, "", false
	}
	name = strings.ToLower(rest)
	first, behind, _ := strings.Cut(name, "_")
	if n, err := strconv.ParseUint(first, 10, 16); err == nil && n > 0 && behind != "" {
		return uint16(n), behind, true
	}
	return 0, name, true
}

// forRegistrator tells whether there are marks of it.
func forRegistrator(m marks) bool {
	for full := range m {
		if port, name, ok := registratorMark(full); ok && (port != 0 || telling(name)) {
			return true
		}
	}
	return false
}

// registrator makes a service of each published port, else of each exposed one. A mark with the
// port's number comes before one without.
func registrator(c *Container, m marks, n *notes) [][]service.Setting {
	if !forRegistrator(m) || m.has(servicePrefix+"IGNORE") {
		return nil
	}
	ports := c.Published
	if len(ports.TCP)+len(ports.UDP) == 0 {
		ports = c.Ports
	}
	if len(ports.TCP) == 0 {
		// Whoever asks for the port of this one says what is missing.
		return [][]service.Setting{registratorService(c, 0, false, m, n)}
	}
	if len(ports.UDP) > 0 {
		n.add("UDP ports (%s) are left out: HAProxy carries TCP", PrintPorts(ports.UDP))
	}
	strangers(ports.TCP, m, n)
	several := len(ports.TCP)+len(ports.UDP) > 1
	if more := len(ports.TCP) - mostPorts; more > 0 {
		n.add("%d ports are left out: at most %d are registered; name those that matter by sidekick.services.NAME.port", more, mostPorts)
		ports.TCP = ports.TCP[:mostPorts]
	}
	var all [][]service.Setting
	for _, port := range ports.TCP {
		if !m.has(fmt.Sprintf("%s%d_IGNORE", servicePrefix, port)) {
			all = append(all, registratorService(c, port, several, m, n))
		}
	}
	return all
}

// strangers notes marks for ports that the container does not have.
func strangers(ports []uint16, m marks, n *notes) {
	for _, full := range m.sorted() {
		if port, _, ok := registratorMark(full); ok && port != 0 && !slices.Contains(ports, port) {
			n.add("%s is for a port that is not among those registered (%s): publish it", m[full], PrintPorts(ports))
		}
	}
}

func registratorService(c *Container, number uint16, several bool, m marks, n *notes) []service.Setting {
	var settings []service.Setting
	if number != 0 {
		settings = append(settings, portSetting(number))
	}
	of := marksFor(number, m)
	settings = append(settings, registratorName(c, number, several, of, n))
	for _, name := range of.sorted() {
		settings = append(settings, registratorSetting(name, of, n)...)
	}
	return settings
}

// marksFor are the marks that count for a port, by what is behind SERVICE_ and the port.
func marksFor(number uint16, m marks) marks {
	of := marks{}
	for _, wanted := range []uint16{0, number} {
		for full, found := range m {
			if at, name, ok := registratorMark(full); ok && at == wanted {
				of[name] = found
			}
		}
	}
	return of
}

// registratorName is the name that was given for the port; else that for the container, else the
// image's, with the port behind it where there are several.
func registratorName(c *Container, number uint16, several bool, of marks, n *notes) service.Setting {
	given, ok := of["name"]
	text := given.text
	if !ok {
		given = mark{"image", c.Image, c.Image}
		text = cmp.Or(imageName(c.Image), c.Service)
	}
	if at, _, _ := registratorMark(given.name); several && at == 0 {
		text += "-" + port(number)
	}
	if !ok {
		return given.set("service", service.DeriveName(text))
	}
	return given.nameOf(text, n)
}

// imageName is the last part of an image's name, without tag and digest.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	name, _, _ := strings.Cut(path.Base(image), ":")
	return strings.Trim(name, "./")
}

// registratorSetting gives the label for one mark; all that is not known becomes meta.
func registratorSetting(name string, of marks, n *notes) []service.Setting {
	m := of[name]
	switch name {
	case "name", "ignore":
		return nil
	case "tags":
		return tags(m)
	case "check_http":
		return []service.Setting{m.set("check", "http:"+m.text)}
	case "check_tcp":
		if m.text != "true" || of.has("check_http") {
			return nil
		}
		return []service.Setting{m.set("check", "tcp")}
	case "check_interval", "check_timeout":
		return []service.Setting{m.set("check."+strings.TrimPrefix(name, "check_"), m.text)}
	}
	if strings.HasPrefix(name, "check_") {
		n.add("%s is kept as sidekick.meta.%.40s but not acted on: say it by sidekick.check", m, name)
	}
	if len(m.text) > longestMeta { // the application's own, and perhaps a secret
		n.add("%s is left out: it has more than the %d bytes of a sidekick.meta", m, longestMeta)
		return nil
	}
	return []service.Setting{m.set("meta."+name, m.text)}
}

func tags(m mark) []service.Setting {
	if strings.Contains(m.text, `\,`) {
		return []service.Setting{m.refuse("tags", `a tag cannot hold a comma: write another character for "\,"`)}
	}
	if all := items(m.text); len(all) > 0 {
		return []service.Setting{m.set("tags", strings.Join(all, ","))}
	}
	return nil
}
