package render

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// quoted is a word that a message of the parser is about.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// placed adds to a parser's error, which names the line, the column of the word that it is about, if the
// line has that once, and the line itself. Columns count bytes from 0, as when a template runs.
func placed(name, text string, err error) error {
	rest, ours := strings.CutPrefix(err.Error(), "template: "+name+":")
	number, words, ok := strings.Cut(rest, ": ")
	n, bad := strconv.Atoi(number)
	lines := strings.Split(text, "\n")
	if !ours || !ok || bad != nil || n < 1 || n > len(lines) {
		return err
	}
	line := lines[n-1]
	where := name + ":" + number
	if word, _ := strconv.Unquote(quoted.FindString(words)); word != "" && strings.Count(line, word) == 1 {
		where += ":" + strconv.Itoa(strings.Index(line, word))
	}
	return fmt.Errorf("template: %s: %s, in the line %.120q", where, words, strings.TrimSpace(line))
}

// position is where a template's text begins, as "file:line:column", with its name; the file alone for the
// one that is the whole file.
func position(t *template.Template) string {
	if t.Tree == nil || t.Name() == t.ParseName {
		return t.Name()
	}
	where := t.ParseName
	if len(t.Root.Nodes) > 0 {
		where, _ = t.ErrorContext(t.Root.Nodes[0])
	}
	return fmt.Sprintf("%s: define %q", where, t.Name())
}

// callOf is where {{services "NAME"}} stands, if it does so once in the template, or else in all that are
// defined beside it; else it is the template's own position.
func callOf(t *template.Template, name string) string {
	for _, list := range [][]*template.Template{{t}, t.Templates()} {
		where, calls := "", 0
		for _, from := range list {
			for _, call := range servicesIn(from, name) {
				where, _ = from.ErrorContext(call)
				calls++
			}
		}
		if calls == 1 {
			return where
		}
	}
	return position(t)
}

// servicesIn finds the calls of {{services}} for the define of that name.
func servicesIn(t *template.Template, name string) (calls []parse.Node) {
	if t.Tree == nil {
		return nil
	}
	walk(t.Root, func(n parse.Node) {
		call, ok := n.(*parse.CommandNode)
		if !ok {
			return
		}
		if f, ok := call.Args[0].(*parse.IdentifierNode); !ok || f.Ident != "services" {
			return
		}
		called := serviceDefine
		if len(call.Args) == 2 {
			if text, ok := call.Args[1].(*parse.StringNode); ok {
				called = text.Text
			}
		}
		if called == name {
			calls = append(calls, call.Args[0])
		}
	})
	return calls
}

// walk visits a node and all below it.
func walk(n parse.Node, visit func(parse.Node)) {
	visit(n)
	switch n := n.(type) {
	case *parse.ListNode:
		walkAll(n.Nodes, visit)
	case *parse.IfNode:
		walkBranch(n.BranchNode, visit)
	case *parse.RangeNode:
		walkBranch(n.BranchNode, visit)
	case *parse.WithNode:
		walkBranch(n.BranchNode, visit)
	case *parse.ActionNode:
		walk(n.Pipe, visit)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			walk(n.Pipe, visit)
		}
	case *parse.PipeNode:
		walkAll(n.Cmds, visit)
	case *parse.CommandNode:
		walkAll(n.Args, visit)
	}
}

func walkBranch(n parse.BranchNode, visit func(parse.Node)) {
	walk(n.Pipe, visit)
	walk(n.List, visit)
	if n.ElseList != nil {
		walk(n.ElseList, visit)
	}
}

func walkAll[N parse.Node](nodes []N, visit func(parse.Node)) {
	for _, n := range nodes {
		walk(n, visit)
	}
}

// checkLines refuses texts that HAProxy could read in another way than people do.
// next is the define whose texts per service follow, "" for none.
func checkLines(t *template.Template, text, next string) error {
	if next != "" && text != "" && text[len(text)-1] != '\n' {
		return fmt.Errorf("template: %s: {{services}} needs a line of its own, without anything before it", callOf(t, next))
	}
	if _, call, ok := strings.Cut(text, marker); ok {
		name, _, _ := strings.Cut(call, "\x00")
		return fmt.Errorf("template: %s: {{services}} cannot stand in the text of a service", callOf(t, name))
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return isControl(r) && r != '\n' && r != '\t' }); at >= 0 {
		line, _, _ := strings.Cut(text[strings.LastIndexByte(text[:at], '\n')+1:], "\n")
		return fmt.Errorf("template: %s: the text has control characters, in the line %.120q", position(t), line)
	}
	return nil
}
