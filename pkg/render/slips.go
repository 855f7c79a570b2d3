package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Slips says of each name in Set that the model does not know, and the template does not read, which known one
// may be meant, if it is like one. Such a name is no fault: the values are free.
func (r *Renderer) Slips(set map[string]string) (slips []string) {
	read, all := readOfSet(r.main.Templates())
	if all {
		return nil
	}
	for _, name := range freeValues(set) {
		if known := choiceLike(name); known != "" && !read[name] {
			slips = append(slips, fmt.Sprintf("--set %.40q: neither Sidekick nor the template reads it: did you mean %s?", name, known))
		}
	}
	return slips
}

// freeValues are the names in Set that the model does not know, sorted.
func freeValues(set map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(set)), func(name string) bool {
		return slices.ContainsFunc(choices[:], func(c choice) bool { return c.name == name })
	})
}

// choiceLike is the choice from which a name differs in a quarter of its letters at most, "" for none. How
// names are written elsewhere, with capitals or underscores, is no difference.
func choiceLike(name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	best, least := "", max(1, len(name)/4)+1
	for _, c := range choices {
		if d := service.Distance(name, c.name); d < least {
			best, least = c.name, d
		}
	}
	return best
}

// readOfSet are the names in Set that templates read; all is that they may read any.
func readOfSet(list []*template.Template) (names map[string]bool, all bool) {
	names = map[string]bool{}
	for _, t := range list {
		if t.Tree == nil {
			continue
		}
		walk(t.Root, func(n parse.Node) {
			command, ok := n.(*parse.CommandNode)
			if !ok {
				return
			}
			for at := range command.Args {
				name, each := readOf(command.Args, at)
				names[name], all = true, all || each
			}
		})
	}
	return names, all
}

// readOf is the name in Set that an argument of a command reads; each is that it may read any.
func readOf(args []parse.Node, at int) (name string, each bool) {
	name, whole := behindSet(args[at])
	if !whole || at == 0 || at+1 == len(args) || args[0].String() != "index" {
		return name, whole
	}
	if key, constant := args[at+1].(*parse.StringNode); constant {
		return key.Text, false
	}
	return "", true
}

// behindSet is the name of the value of Set that a node is, or that it is Set as a whole.
func behindSet(n parse.Node) (name string, whole bool) {
	var chain []string
	switch n := n.(type) {
	case *parse.FieldNode:
		chain = n.Ident
	case *parse.VariableNode:
		chain = n.Ident
	case *parse.ChainNode:
		chain = n.Field
	}
	switch at := slices.Index(chain, "Set"); {
	case at < 0:
		return "", false
	case at+1 < len(chain):
		return chain[at+1], false
	default:
		return "", true
	}
}
