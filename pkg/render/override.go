package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// parseTemplate parses a template. One that has only defines, and no text outside of them, is the
// built-in one with these defines in place of its own: so whoever changes a part gets the rest with
// each upgrade.
func parseTemplate(name, text string, functions template.FuncMap) (*template.Template, error) {
	own, err := parseText(name, text, functions)
	switch {
	case err != nil:
		return nil, err
	case !parse.IsEmptyTree(own.Root):
		return own, nil
	case len(own.Templates()) == 1: // as an editor leaves a file for a moment
		return nil, fmt.Errorf("template: %s: it has neither text nor a define", name)
	}
	base, err := parseText(templates.Name, templates.HAProxy, functions)
	if err != nil {
		return nil, err
	}
	return base, override(base, own)
}

func parseText(name, text string, functions template.FuncMap) (*template.Template, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, placed(name, text, err)
	}
	return t, nil
}

// override puts the defines of own in place of those that base has under the same names, and adds the
// others. One that nothing calls is taken for a slip of the pen: it would be without effect.
func override(base, own *template.Template) error {
	builtin := map[string]bool{}
	for _, t := range base.Templates() {
		builtin[t.Name()] = t != base
	}
	called := calledBy(append(base.Templates(), own.Templates()...))
	for _, t := range sorted(own.Templates()) {
		name := t.Name()
		if t == own {
			continue
		}
		if !builtin[name] && !called[name] && !strings.HasPrefix(name, filePrefix) {
			return fmt.Errorf("template: %s: nothing calls it, and the built-in template defines nothing of that name%s", position(t), like(name, builtin))
		}
		if old := base.Lookup(name); old != nil {
			old.Tree = t.Tree // AddParseTree would keep the old one if this one is empty
			continue
		}
		if _, err := base.AddParseTree(name, t.Tree); err != nil {
			return err
		}
	}
	return nil
}

func sorted(list []*template.Template) []*template.Template {
	return slices.SortedFunc(slices.Values(list), func(a, b *template.Template) int { return strings.Compare(a.Name(), b.Name()) })
}

// like proposes the name that may be meant.
func like(name string, names map[string]bool) string {
	best, least := "", 1+len(name)/3
	for _, known := range slices.Sorted(maps.Keys(names)) {
		if d := service.Distance(name, known); names[known] && d <= least {
			best, least = known, d-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// calledBy is the names of the defines that templates print, by {{template}} or {{services}}.
func calledBy(list []*template.Template) map[string]bool {
	called := map[string]bool{serviceDefine: true}
	for _, t := range list {
		if t.Tree == nil {
			continue
		}
		walk(t.Root, func(n parse.Node) {
			switch n := n.(type) {
			case *parse.TemplateNode:
				called[n.Name] = true
			case *parse.StringNode:
				called[n.Text] = true // perhaps an argument of services
			}
		})
	}
	return called
}
