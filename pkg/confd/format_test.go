package confd

import (
	"strings"
	"testing"
)

// A text that is not of the format that its resource names never takes the place of one that is.
func TestOutputFormat(t *testing.T) {
	for format, texts := range map[string][2]string{
		"json": {`{"a": [1]}`, `{"a": [1}`}, "yaml": {"a: [1]\n", "a: [1\n"}, "yml": {"a: 1\n", "a: b: c\n"},
		"toml": {"a = 1\n", "a = \n"}, "xml": {"<a><b/></a>", "<a><b></a>"},
	} {
		b := newBed(t, newRegistry("/app/a", texts[0]), "templates/app.tmpl", `{{getv "/app/a"}}`, "conf.d/app.toml", appFile+"output_format = \""+format+"\"\n")
		if _, err := b.once(false); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		b.keys.set("/app/a", texts[1])
		if _, err := b.once(false); err == nil || !strings.Contains(err.Error(), "conf.d/app.toml: output_format "+format+": ") {
			t.Errorf("%s: got the error %v", format, err)
		}
		if got := b.read("app"); got != texts[0] {
			t.Errorf("%s: got %q, want what was there", format, got)
		}
	}
	for format, text := range map[string]string{
		"xml": " ", "yaml": strings.Repeat("[", 1<<20), "toml": "a = " + strings.Repeat("[", 1<<20), "yml": strings.Repeat("- ", 1<<20), "json": strings.Repeat("[", 1<<20),
	} {
		if err := wellFormed([]byte(text), format); err == nil || !strings.HasPrefix(err.Error(), "output_format "+format) {
			t.Errorf("%s: a text that is none, or would take long, gives %v", format, err)
		}
	}
}
