package main

import (
	"errors"
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// titles are the headings of types whose own names other types have already.
func title(name string) string {
	if name == "service.Instance" {
		return "Registration"
	}
	_, short, _ := strings.Cut(name, ".")
	return short
}

// internal are fields that are never set in a model: their own comments say who alone knows them.
func internal(name, field string) bool {
	return name == "service.Instance" && slices.Contains([]string{"Check", "Told", "Leased", "Doubt"}, field)
}

// model is a section for each type that a template can come to, beginning with its dot and with settings.
func (c *comments) model() (string, error) {
	var b strings.Builder
	var errs []error
	seen := map[string]bool{}
	for queue := []string{"render.Model", "render.Settings"}; len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if seen[name] {
			continue
		}
		seen[name] = true
		s := section{comments: c, name: name, pkg: strings.Split(name, ".")[0]}
		text, err := s.text()
		errs = append(errs, err)
		b.WriteString(text)
		queue = slices.Insert(queue, 1, s.leadsTo...)
	}
	return b.String(), errors.Join(errs...)
}

// section is the part of the page about one type.
type section struct {
	*comments
	name, pkg string
	leadsTo   []string // types that fields are of
	rows      []string
	errs      []error
}

func (s *section) text() (string, error) {
	of := s.types[s.name]
	fields, ok := of.spec.Type.(*ast.StructType)
	if !ok || of.doc == "" {
		return "", fmt.Errorf("%s is no struct with a comment", s.name)
	}
	for _, f := range fields.Fields.List {
		s.field(f)
	}
	for _, m := range s.methods[s.name] {
		s.method(m)
	}
	text := fmt.Sprintf("## %s\n\n%s\n\n| field | type | is |\n|---|---|---|\n%s\n\n", title(s.name), paragraphs(of.doc), strings.Join(s.rows, "\n"))
	return text, errors.Join(s.errs...)
}

func (s *section) row(names []string, kind, doc string) {
	for i, name := range names {
		names[i] = "`." + name + "`"
	}
	if doc == "" {
		s.errs = append(s.errs, fmt.Errorf("%s: %s has no comment: say what flows in it, its unit, and when it is empty", s.name, strings.Join(names, ", ")))
	}
	s.rows = append(s.rows, fmt.Sprintf("| %s | %s | %s |", strings.Join(names, ", "), kind, cell(doc)))
}

func (s *section) field(f *ast.Field) {
	var names []string
	for _, name := range f.Names {
		if name.IsExported() && !internal(s.name, name.Name) {
			names = append(names, name.Name)
		}
	}
	doc := f.Doc.Text()
	if doc == "" {
		doc = f.Comment.Text()
	}
	switch {
	case len(f.Names) == 0:
		s.rows = append(s.rows, fmt.Sprintf("| all of %s | | %s |", s.kind(f.Type), cell(doc)))
	case len(names) > 0:
		s.row(names, s.kind(f.Type), without(names[0], doc))
	}
}

// method is a row if templates can call it without arguments.
func (s *section) method(m *ast.FuncDecl) {
	results := m.Type.Results
	if len(m.Type.Params.List) > 0 || results == nil || len(results.List) != 1 || source(results.List[0].Type) == "error" {
		return
	}
	s.row([]string{m.Name.Name}, s.kind(results.List[0].Type), without(m.Name.Name, m.Doc.Text()))
}

// without leaves out the first words of a comment that begins as Go's do, with the name.
func without(name, doc string) string {
	return regexp.MustCompile(`^`+name+` (is|are) `).ReplaceAllString(doc, "")
}

// kind says in a word what a type is, and takes note of those that have a section of their own.
func (s *section) kind(e ast.Expr) string {
	name := strings.TrimPrefix(source(e), "*")
	if of, list := strings.CutPrefix(name, "[]"); list {
		return "list of " + s.kindOf(of)
	}
	if of, isMap := strings.CutPrefix(name, "map[string]"); isMap {
		return "map of " + s.kindOf(of)
	}
	return s.kindOf(name)
}

func (s *section) kindOf(name string) string {
	name = strings.TrimPrefix(name, "*")
	switch name {
	case "string":
		return "text"
	case "int", "uint16", "uint32":
		return "number"
	case "bool":
		return "true or false"
	case "netip.Addr":
		return "IP"
	case "netip.AddrPort":
		return "IP and port"
	case "netip.Prefix":
		return "network"
	case "time.Time":
		return "time"
	}
	if !strings.Contains(name, ".") {
		name = s.pkg + "." + name
	}
	known, ok := s.types[name]
	switch {
	case !ok:
		s.errs = append(s.errs, fmt.Errorf("%s has a field of type %s: teach modeldoc how to call it", s.name, name))
		return name
	case isStruct(known.spec):
		s.leadsTo = append(s.leadsTo, name)
		return fmt.Sprintf("[%s](#%s)", title(name), strings.ToLower(title(name)))
	}
	return s.named(name, known)
}

func isStruct(t *ast.TypeSpec) bool {
	_, ok := t.Type.(*ast.StructType)
	return ok
}

// named is the kind of a type that has another one under a name of its own.
func (s *section) named(name string, known declared) string {
	inner := section{comments: s.comments, name: name, pkg: strings.Split(name, ".")[0]}
	kind := inner.kind(known.spec.Type)
	s.leadsTo, s.errs = append(s.leadsTo, inner.leadsTo...), append(s.errs, inner.errs...)
	return kind
}
