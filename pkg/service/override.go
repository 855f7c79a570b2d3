package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// OverrideState is what people say of instances, over what their owner's agent says.
type OverrideState string

// The states of an override.
const (
	Drain OverrideState = "drain" // no new clients; those that a cookie leads there may finish
	Maint OverrideState = "maint" // no new requests at all; those in flight end
)

// Target names what an override is for: a service on all nodes, its part on one node, or one instance.
type Target struct {
	Service string
	Node    string // "" for all
	ID      string // "" for all of the node
}

// Override is what people have said of a target. It is never changed.
type Override struct {
	Target
	State  OverrideState // "" says nothing
	Weight *int          // 0 to 256; nil says nothing
	Until  time.Time     // when it ends by itself, zero for never
	By     string        // who said it, for people
}

// Words says of what the override is, what it says, and by whom, for people.
func (o *Override) Words() string {
	text := o.String()
	if o.State != "" {
		text += " " + string(o.State)
	}
	if o.Weight != nil {
		text += fmt.Sprintf(" weight %d", *o.Weight)
	}
	if o.By != "" {
		text += " by " + o.By
	}
	return text
}

// Ruling is what overrides say of one instance: each part by the most specific override that has it.
type Ruling struct {
	State  *Override // nil if none says a state
	Weight *Override // nil if none says a weight
}

// ParseTarget reads SERVICE, SERVICE/NODE or SERVICE/NODE/ID.
func ParseTarget(text string) (Target, error) {
	parts := strings.Split(text, "/")
	if len(parts) > 3 {
		return Target{}, fmt.Errorf("%s has %d parts: write SERVICE, SERVICE/NODE or SERVICE/NODE/ID", quote(text, 80), len(parts))
	}
	t := Target{Service: parts[0]}
	var err error
	if !ValidName(t.Service) {
		err = fmt.Errorf("%s is no service name (lower-case letters, digits, inner hyphens, at most %d)", quote(t.Service, 40), maxName)
	}
	if len(parts) > 1 {
		t.Node = parts[1]
		err = cmp.Or(err, nodeName(t.Node))
	}
	if len(parts) > 2 {
		t.ID = parts[2]
		err = cmp.Or(err, idName(t.ID, "instance id"))
	}
	if err != nil {
		return Target{}, err
	}
	return t, nil
}

// String writes the target as ParseTarget reads it.
func (t Target) String() string {
	switch {
	case t.Node == "":
		return t.Service
	case t.ID == "":
		return t.Service + "/" + t.Node
	}
	return t.Service + "/" + t.Node + "/" + t.ID
}

// Key is the registry key of the target's override under prefix.
func (t Target) Key(prefix string) string {
	return Root(prefix) + string(KeyOverride) + "/" + t.String()
}

// Covers tells whether the target is of the instance.
func (t Target) Covers(i *Instance) bool {
	return t.Service == i.Service && (t.Node == "" || t.Node == i.Node) && (t.ID == "" || t.ID == i.ID)
}

// sortKey orders targets so that a wider one comes before those within it.
func (t Target) sortKey() string { return t.Service + "\x00" + t.Node + "\x00" + t.ID }

// Ruling returns what the service's overrides say of one of its instances.
func (s *Service) Ruling(i *Instance) Ruling {
	var r Ruling
	for _, o := range s.Overrides { // the wider come first
		if !o.Covers(i) {
			continue
		}
		if o.State != "" {
			r.State = o
		}
		if o.Weight != nil {
			r.Weight = o
		}
	}
	return r
}

// InForce tells whether the override counts at that time.
func (o *Override) InForce(now time.Time) bool { return o.Until.IsZero() || now.Before(o.Until) }

// overrideValue is the JSON form of an override.
type overrideValue struct {
	State  OverrideState `json:"state,omitempty"`
	Weight *int          `json:"weight,omitempty"`
	Until  time.Time     `json:"until,omitzero"`
	By     string        `json:"by,omitempty"`
}

// Encode gives the registry value of the override. It fails when readers would reject it.
func (o *Override) Encode() ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("override of %s: %w", o.Target, err)
	}
	return marshal(o.value())
}

// value is the override in the form of its JSON.
func (o *Override) value() *overrideValue {
	return &overrideValue{State: o.State, Weight: o.Weight, Until: o.Until.UTC(), By: o.By}
}

// DecodeOverride reads what was said of the target. Unknown fields are ignored; any rule that is broken
// is an error.
func DecodeOverride(t Target, b []byte) (Override, error) {
	var v overrideValue
	if err := unmarshal(b, &v, "an override"); err != nil {
		return Override{}, err
	}
	o := Override{Target: t, State: v.State, Weight: v.Weight, Until: v.Until.UTC(), By: v.By}
	return o, o.Validate()
}

// Validate checks every rule that an override must keep, and names all that are broken.
func (o *Override) Validate() error {
	var errs []error
	if _, err := ParseTarget(o.String()); err != nil {
		errs = append(errs, err)
	}
	if o.State != "" && o.State != Drain && o.State != Maint {
		errs = append(errs, fmt.Errorf("state %.40q is neither drain nor maint", o.State))
	}
	if o.State == "" && o.Weight == nil {
		errs = append(errs, errors.New("it says neither a state nor a weight"))
	}
	if o.Weight != nil && (*o.Weight < 0 || *o.Weight > 256) {
		errs = append(errs, fmt.Errorf("weight %d is outside 0 to 256", *o.Weight))
	}
	if !validYear(o.Until) {
		errs = append(errs, errors.New("until is outside the years 0 to 9999"))
	}
	return errors.Join(append(errs, validBy(o.By))...)
}

func validYear(t time.Time) bool { return t.UTC().Year() >= 0 && t.UTC().Year() <= 9999 }

func validBy(by string) error {
	if !printable(by, 256) {
		return errors.New("by has control characters or more than 256 bytes")
	}
	return nil
}

// unmarshal reads the JSON of a thing that is no larger than any value may be.
func unmarshal(b []byte, v any, thing string) error {
	if len(b) > MaxValue {
		return fmt.Errorf("the value has %d bytes, more than %d", len(b), MaxValue)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("the value is not the JSON of %s: %w", thing, err)
	}
	return nil
}
