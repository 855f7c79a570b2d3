package service

import (
	"errors"
	"fmt"
)

// Want is what somebody waits for.
type Want string

// What can be asked of agents.
const (
	WantApplied   Want = "applied"   // of every agent: its proxy runs what the registry held at the revision
	WantEnded     Want = "ended"     // the same, and how many sessions are left on the servers that the key names
	WantUndrained Want = "undrained" // of the instance's own agent: it forgets that the instance was told to stop
)

// Ask is a question to every agent. It lasts as long as somebody waits for the answers.
type Ask struct {
	ID       string // last part of the key
	By       string // who asks, for people
	Want     Want
	Key      string // registry key of an instance, or of an override for all that it covers; "" names nothing
	Revision int64  // of the registry, which the answer must have seen
}

// Answer is what one agent says to an ask.
type Answer struct {
	Node, Ask string // from the key

	Revision int64 // that the proxy runs by
	Applied  bool  // what was asked about is in force
	Sessions int   // still open on the servers named
}

// AsksKey is what the keys of all asks begin with, ending in a slash.
func AsksKey(prefix string) string { return Root(prefix) + string(KeyAsk) + "/" }

// AnswersKey is what the keys of all answers of a node begin with, ending in a slash.
func AnswersKey(prefix, node string) string {
	return Root(prefix) + string(KeyAnswer) + "/" + node + "/"
}

// RegistryKey is the ask's registry key under prefix.
func (a *Ask) RegistryKey(prefix string) string { return AsksKey(prefix) + a.ID }

// RegistryKey is the answer's registry key under prefix.
func (a *Answer) RegistryKey(prefix string) string { return AnswersKey(prefix, a.Node) + a.Ask }

// sortKey orders answers like their keys.
func (a *Answer) sortKey() string { return a.Node + "\x00" + a.Ask }

// Named returns the instances of a catalog that the ask is about.
func (a *Ask) Named(c *Catalog) []*Instance {
	k, err := ParseKey(c.Prefix, a.Key)
	if err != nil || k.Kind != KeyInstance && k.Kind != KeyOverride {
		return nil
	}
	among := c.Services
	if k.Kind == KeyOverride {
		at, ok := c.find(k.Service)
		if !ok {
			return nil
		}
		among = among[at : at+1]
	}
	var named []*Instance
	for _, s := range among {
		for _, i := range s.Instances {
			if k.Kind == KeyOverride && k.Target().Covers(i) || k.Kind == KeyInstance && k.Node == i.Node && k.ID == i.ID {
				named = append(named, i)
			}
		}
	}
	return named
}

// askValue is the JSON form of an ask.
type askValue struct {
	By       string `json:"by,omitempty"`
	Want     Want   `json:"want"`
	Key      string `json:"key,omitempty"`
	Revision int64  `json:"revision"`
}

// Encode gives the registry value of the ask.
func (a *Ask) Encode() ([]byte, error) {
	return marshal(askValue{By: a.By, Want: a.Want, Key: a.Key, Revision: a.Revision})
}

// DecodeAsk reads the ask of that id, whose key is under prefix. Any rule that is broken is an error.
func DecodeAsk(prefix, id string, b []byte) (Ask, error) {
	var v askValue
	if err := unmarshal(b, &v, "an ask"); err != nil {
		return Ask{}, err
	}
	a := Ask{ID: id, By: v.By, Want: v.Want, Key: v.Key, Revision: v.Revision}
	return a, a.validate(prefix)
}

func (a *Ask) validate(prefix string) error {
	var errs []error
	complain := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	complain(a.Want == WantApplied || a.Want == WantEnded || a.Want == WantUndrained, "want %.40q is none of applied, ended, undrained", a.Want)
	complain(a.Revision >= 0, "revision %d is below 0", a.Revision)
	if a.Key != "" || a.Want != WantApplied {
		k, err := ParseKey(prefix, a.Key)
		complain(err == nil, "%w", err)
		complain(err != nil || k.Kind == KeyInstance || k.Kind == KeyOverride && a.Want != WantUndrained, "key %s is not of a kind that is asked about", quote(a.Key, 120))
	}
	return errors.Join(append(errs, validBy(a.By))...)
}

// answerValue is the JSON form of an answer.
type answerValue struct {
	Revision int64 `json:"revision"`
	Applied  bool  `json:"applied"`
	Sessions int   `json:"sessions"`
}

// Encode gives the registry value of the answer.
func (a *Answer) Encode() ([]byte, error) {
	return marshal(answerValue{Revision: a.Revision, Applied: a.Applied, Sessions: a.Sessions})
}

// DecodeAnswer reads a node's answer to an ask. Any rule that is broken is an error.
func DecodeAnswer(node, ask string, b []byte) (Answer, error) {
	var v answerValue
	if err := unmarshal(b, &v, "an answer"); err != nil {
		return Answer{}, err
	}
	if v.Revision < 0 || v.Sessions < 0 {
		return Answer{}, fmt.Errorf("revision %d or sessions %d is below 0", v.Revision, v.Sessions)
	}
	return Answer{Node: node, Ask: ask, Revision: v.Revision, Applied: v.Applied, Sessions: v.Sessions}, nil
}
