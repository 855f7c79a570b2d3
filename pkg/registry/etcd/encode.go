package etcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// encoded is an instance and its value, kept because most instances are the same in the next set.
type encoded struct {
	instance service.Instance
	value    string
}

// encode gives the values of those instances that may be written, by key.
func (s *session) encode(want []service.Instance) map[string]encoded {
	values := make(map[string]encoded, len(want))
	complaints := map[string]string{}
	for n := range want {
		i := &want[n]
		key := i.Key(s.prefix)
		value, err := s.value(key, i)
		switch _, twice := values[key]; {
		case i.Node != s.node:
			err = fmt.Errorf("it is of node %q", i.Node)
		case err == nil && twice:
			err = errors.New("its id is taken by another instance of this node")
		}
		if err == nil {
			values[key] = encoded{*i, value}
			continue
		}
		complaints[key] = err.Error()
		if s.complained[key] != err.Error() {
			s.log.WithError(err).WithFields(logrus.Fields{"id": i.ID, "service": i.Service}).Warn("instance cannot be registered")
		}
	}
	s.complained, s.encoded = complaints, values
	return values
}

// value is the value of an instance: that of the last set if it is the same.
func (s *session) value(key string, i *service.Instance) (string, error) {
	if last, ok := s.encoded[key]; ok && same(&last.instance, i) {
		return last.value, nil
	}
	b, err := i.Encode()
	return string(b), err
}

// same tells whether two instances have the same value.
func same(a, b *service.Instance) bool {
	return a.Node == b.Node && a.ID == b.ID && a.Service == b.Service && a.Address == b.Address && a.Port == b.Port &&
		a.State == b.State && a.Weight == b.Weight && a.Mode == b.Mode && a.Path == b.Path && a.Listen == b.Listen &&
		a.Scope == b.Scope && a.Container == b.Container && a.Name == b.Name && a.Zone == b.Zone && a.Started.Equal(b.Started) &&
		slices.Equal(a.Hosts, b.Hosts) && slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Options, b.Options) && maps.Equal(a.Meta, b.Meta)
}
