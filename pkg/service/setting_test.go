package service

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The last setting of a label counts, also in place of a faulty one; a fault is told as the user wrote
// it (P7).
func TestDefine(t *testing.T) {
	refused := Setting{Label: "host", Mark: `variable H="~x"`, Err: errors.New("no host name: write one")}
	tests := map[string]struct {
		settings []Setting
		labels   map[string]string // plain ones, behind the settings
		want     Definition
		wantErr  string
	}{
		"nothing":            {want: defaults(func(*Definition) {})},
		"fields and options": {settings: []Setting{{Label: "port", Text: "80", Mark: "P"}, {Label: "balance", Text: "source", Mark: "B"}}, want: defaults(func(d *Definition) { d.Port = 80; d.Options["balance"] = "source" })},
		"the last counts":    {settings: []Setting{{Label: "port", Text: "80", Mark: "P"}}, labels: map[string]string{"sidekick.port": "81"}, want: defaults(func(d *Definition) { d.Port = 81 })},
		"a fault":            {settings: []Setting{refused}, wantErr: `variable H="~x": no host name: write one`},
		"in place of a fault": {
			settings: []Setting{refused}, labels: map[string]string{"sidekick.host": "a.test"}, want: defaults(func(d *Definition) { d.Hosts = []string{"a.test"} }),
		},
		"a bad value":   {settings: []Setting{{Label: "port", Text: "x", Mark: `variable P="x"`}}, wantErr: `variable P="x" means the label sidekick.port="x": want a number from 1 to 65535`},
		"a bad label":   {labels: map[string]string{"sidekick.port": "x"}, wantErr: `label sidekick.port="x": want a number from 1 to 65535`},
		"unknown label": {labels: map[string]string{"sidekick.prt": "x"}, wantErr: "label sidekick.prt is unknown: did you mean sidekick.port?"},
		"enable":        {labels: map[string]string{"sidekick.enable": "true"}, want: defaults(func(*Definition) {})},
		"bad enable":    {labels: map[string]string{"sidekick.enable": "yes"}, wantErr: `label sidekick.enable="yes": want true or false`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Define(append(tt.settings, Settings(tt.labels, "")...))
			if tt.wantErr != "" {
				if got.Err == nil || got.Err.Error() != tt.wantErr {
					t.Errorf("got error %v, want %s", got.Err, tt.wantErr)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Plain labels and those of one of several services are kept apart.
func TestSettings(t *testing.T) {
	labels := map[string]string{
		"other": "x", "sidekick.port": "80", "sidekick.meta.services.x": "y", "sidekick.services.a.port": "81", "sidekick.services.a.enable": "false", "sidekick.services.ab.port": "82",
	}
	tests := map[string]struct {
		want     []string
		disabled bool
	}{
		"": {want: []string{"meta.services.x=y", "port=80"}}, "a": {want: []string{"enable=false", "port=81"}, disabled: true}, "ab": {want: []string{"port=82"}}, "b": {},
	}
	for key, tt := range tests {
		settings := Settings(labels, key)
		var got []string
		for _, s := range settings {
			got = append(got, s.Label+"="+s.Text)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || Disabled(settings) != tt.disabled {
			t.Errorf("%q: disabled %v (-want +got)\n%s", key, Disabled(settings), diff)
		}
	}
}
