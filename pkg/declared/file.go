package declared

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// declaration is an entry of a services file that was understood, or what is wrong with it.
type declaration struct {
	at       place
	service  string // as far as known
	endpoint netip.AddrPort
	def      service.Definition
	err      error // each line with its place
}

// declarations reads a services file. A bad entry is a declaration with an error, so that the others
// count; a file that is no list of maps is an error as a whole.
func declarations(text string) ([]declaration, error) {
	entries, err := parse(text)
	if err != nil {
		return nil, err
	}
	list := make([]declaration, 0, len(entries))
	for _, e := range entries {
		if d, on := declare(e); on {
			list = append(list, d)
		}
	}
	return list, nil
}

// declare understands an entry. It is off with enable: false.
func declare(e entry) (d declaration, on bool) {
	d = declaration{at: e.at, def: service.NewDefinition()}
	errs := []error{e.err}
	on = true
	for _, p := range e.pairs {
		var err error
		switch p.key {
		case "address":
			d.endpoint, err = ParseEndpoint(p.text)
		case "enable":
			on = p.text != "false"
			if on && p.text != "true" {
				err = fmt.Errorf("enable: %.40q: want true or false", p.text)
			}
		default:
			err = Set(&d.def, p.key, p.text)
		}
		if err != nil {
			errs = append(errs, p.at.wrong(err))
		}
	}
	if e.err == nil && !e.says("address") {
		errs = append(errs, e.at.wrong(errors.New("the address is missing: write address: IP:PORT")))
	}
	d.service = d.def.Service
	if e.err == nil && d.service == "" && !e.says("service") {
		errs = append(errs, e.at.wrong(errors.New("the name of the service is missing: write service: NAME")))
	}
	d.err = errors.Join(errs...)
	return d, on
}

func (e entry) says(key string) bool {
	for _, p := range e.pairs {
		if p.key == key {
			return true
		}
	}
	return false
}
