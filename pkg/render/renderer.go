package render

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/template"
)

// Renderer makes files of catalogs by one template. It remembers the texts of services, so that
// the next catalog costs what changed in it. It is not safe for concurrent use.
//
// The template's text is the configuration. Where it calls {{services}} on a line of its own, the
// template defined as "service" is printed for each service, as a block by itself;
// {{services "NAME"}} does the same with another defined template. What is defined as "file NAME"
// becomes the file NAME beside the configuration, where the certificates lie as well. Within the texts per service the dot is a
// [Service], elsewhere a [Model]; {{settings}} is everywhere the [Settings].
type Renderer struct {
	name    string
	text    string
	main    *template.Template
	files   []string // names of the additional files, sorted
	builder builder
	known   map[string][]serviceText // by defined template, in the order of the last model
	spare   []serviceText            // room for the next of these
	buffer  bytes.Buffer
	faults  ServiceErrors // of the input at hand
}

// serviceText is what a template made of a service. Equal services, equal texts.
type serviceText struct {
	service *Service
	block   Block // the zero one if it has no text
}

const filePrefix = "file "

// New parses a template. name is its path, for errors, which say line and column as well. A text of
// nothing but defines changes the built-in template, which defines them too.
func New(name, text string, s Settings) (*Renderer, error) {
	s = s.withDefaults()
	main, err := parseTemplate(name, text, functions(s))
	if err != nil {
		return nil, err
	}
	r := &Renderer{name: name, text: text, main: main, builder: builder{settings: s}, known: map[string][]serviceText{}}
	for _, t := range main.Templates() {
		file, ok := strings.CutPrefix(t.Name(), filePrefix)
		if !ok || t == main {
			continue
		}
		if isCertificateFile(file) {
			return nil, fmt.Errorf("template: %s: the file name %q is kept for certificates: choose another", position(t), file)
		}
		if !isFileName(file) {
			return nil, fmt.Errorf("template: %s: %q is no name of a file: use letters, digits and ._- without directories", position(t), file)
		}
		r.files = append(r.files, file)
	}
	slices.Sort(r.files)
	return r, nil
}

// Source returns what the renderer was made of.
func (r *Renderer) Source() (name, text string) { return r.name, r.text }

func isFileName(s string) bool {
	return s != "" && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return false
		}
		return !strings.ContainsRune("._-", r)
	})
}

// Render makes the files for an input, the configuration first, and the model that they were made
// of. If nothing but the texts of single services cannot be made, the error is a [ServiceErrors]. After an
// error the renderer is as good as before.
func (r *Renderer) Render(in Input) (Files, *Model, error) {
	m := r.builder.build(in)
	files := make(Files, 0, 1+len(r.files))
	r.faults = nil
	for _, name := range append([]string{""}, r.files...) {
		t := r.main
		if name != "" {
			t = r.main.Lookup(filePrefix + name)
		}
		blocks, err := r.blocks(t, name, m)
		if err != nil {
			return nil, m, err
		}
		files = append(files, File{Name: name, Blocks: blocks})
	}
	if len(r.faults) > 0 {
		return nil, m, r.faults
	}
	return r.beside(files, slices.Concat(pageFiles(in.Pages), r.builder.tls.files, r.builder.trust.files)), m, nil
}

// beside adds files that no template makes, in the order of names. One that the template defines itself
// is its own.
func (r *Renderer) beside(files Files, more []File) Files {
	for _, f := range more {
		if !slices.Contains(r.files, f.Name) {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return files
}

// blocks makes one file: the template's own text, cut where the services' texts belong.
func (r *Renderer) blocks(t *template.Template, file string, m *Model) ([]Block, error) {
	text, err := r.execute(t, m)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for part := 1; ; part++ {
		before, rest, more := strings.Cut(text, marker)
		name, after, _ := strings.Cut(rest, "\x00")
		if !more {
			before = endLine(before)
		}
		if err := checkLines(t, before, name); err != nil {
			return nil, err
		}
		if before != "" {
			blocks = append(blocks, NewBlock(strings.TrimSpace(fmt.Sprintf("%s part %d", file, part)), before))
		}
		if !more {
			return blocks, nil
		}
		if after != "" && after[0] != '\n' {
			return nil, fmt.Errorf("template: %s: {{services}} needs a line of its own, without %.20q behind it", callOf(t, name), after)
		}
		text = strings.TrimPrefix(after, "\n")
		if blocks, err = r.services(blocks, t, name, m); err != nil {
			return nil, err
		}
	}
}

// services appends the blocks of all services that the defined template of that name has a text
// for, and notes those that it fails for.
func (r *Renderer) services(blocks []Block, from *template.Template, name string, m *Model) ([]Block, error) {
	t := r.main.Lookup(name)
	if t == nil {
		return nil, fmt.Errorf("template: %s: {{services}} wants a template defined as %q, and there is none", callOf(from, name), name)
	}
	known, texts := r.known[name], slices.Grow(r.spare, len(m.Services))
	old := known
	for _, s := range m.Services {
		for len(old) > 0 && old[0].service != s && old[0].service.Name < s.Name {
			old = old[1:]
		}
		var text serviceText
		if len(old) > 0 && old[0].service == s {
			text, old = old[0], old[1:]
		} else {
			block, err := r.service(t, s)
			if err != nil {
				r.faults = append(r.faults, &ServiceError{Service: s.Name, Err: err})
				continue
			}
			text = serviceText{s, block}
		}
		texts = append(texts, text)
		if text.block != (Block{}) {
			blocks = append(blocks, text.block)
		}
	}
	clear(known)
	r.known[name], r.spare = texts, known[:0]
	return blocks, nil
}

// service makes the text of one service, the zero Block if it has none.
func (r *Renderer) service(t *template.Template, s *Service) (Block, error) {
	text, err := r.execute(t, s)
	if err != nil || text == "" {
		return Block{}, err
	}
	if err := checkLines(t, text, ""); err != nil {
		return Block{}, err
	}
	block := NewBlock("service "+s.Name, endLine(text))
	block.Service = s.Name
	return block, nil
}

// execute runs a template.
func (r *Renderer) execute(t *template.Template, data any) (string, error) {
	r.buffer.Reset()
	if err := t.Execute(&r.buffer, data); err != nil {
		return "", err // says file, line and column
	}
	return r.buffer.String(), nil
}

// endLine ends a text's last line.
func endLine(text string) string {
	if text == "" || text[len(text)-1] == '\n' {
		return text
	}
	return text + "\n"
}
