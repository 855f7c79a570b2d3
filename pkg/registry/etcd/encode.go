package etcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// encoded is an instance, its key and its value, kept because most instances are the same in the
// next set. It is never changed.
type encoded struct {
	instance   service.Instance
	key, value string
}

// encode gives the keys and values of those instances that may be written, by id.
func (s *session) encode(want []service.Instance) map[string]*encoded {
	values := make(map[string]*encoded, len(want))
	complaints := map[string]string{}
	for n := range want {
		i := &want[n]
		e, err := s.value(i)
		if err == nil && values[i.ID] != nil {
			err = errors.New("its id is taken by another instance of this node")
		}
		if err == nil {
			values[i.ID] = e
			continue
		}
		key := i.Key(s.prefix)
		complaints[key] = err.Error()
		if s.complained[key] != err.Error() {
			s.log.WithError(err).WithFields(logrus.Fields{"id": i.ID, "service": i.Service}).Warn("instance cannot be registered")
		}
	}
	s.complained, s.encoded = complaints, values
	return values
}

// value gives the key and value of an instance: those of the last set if it is the same.
func (s *session) value(i *service.Instance) (*encoded, error) {
	if i.Node != s.node {
		return nil, fmt.Errorf("it is of node %q", i.Node)
	}
	if service.OriginOf(i.ID) == service.FromCommand {
		return nil, errors.New("ids of that kind are held by commands, with leases of their own")
	}
	if last := s.encoded[i.ID]; last != nil && same(&last.instance, i) {
		return last, nil
	}
	b, err := i.Encode()
	if err != nil {
		return nil, err
	}
	return &encoded{*i, i.Key(s.prefix), string(b)}, nil
}

// same tells whether two instances have the same value.
func same(a, b *service.Instance) bool {
	return a.Node == b.Node && a.ID == b.ID && a.Service == b.Service && a.Address == b.Address && a.Port == b.Port &&
		a.State == b.State && a.Weight == b.Weight && a.Mode == b.Mode && a.Path == b.Path && a.Listen == b.Listen &&
		a.Scope == b.Scope && a.Container == b.Container && a.Name == b.Name && a.Zone == b.Zone && a.Started.Equal(b.Started) &&
		slices.Equal(a.Hosts, b.Hosts) && slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Options, b.Options) && maps.Equal(a.Meta, b.Meta)
}
