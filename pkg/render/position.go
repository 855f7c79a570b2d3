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
	if t.Tree == nil || t.Name() == t.ParseName || len(t.Root.Nodes) == 0 {
		return t.Name()
	}
	where, _ := t.ErrorContext(t.Root.Nodes[0])
	return fmt.Sprintf("%s: define %q", where, t.Name())
}

// callOf is where a template calls {{services}}, if it does so once, else its own position.
func callOf(t *template.Template) string {
	calls := servicesIn(t.Root)
	if len(calls) != 1 {
		return position(t)
	}
	where, _ := t.ErrorContext(calls[0])
	return where
}

// servicesIn finds the calls of {{services}}.
func servicesIn(n parse.Node) (calls []parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil { // no {{else}}
			return nil
		}
		for _, node := range n.Nodes {
			calls = append(calls, servicesIn(node)...)
		}
	case *parse.IfNode:
		return append(servicesIn(n.List), servicesIn(n.ElseList)...)
	case *parse.RangeNode:
		return append(servicesIn(n.List), servicesIn(n.ElseList)...)
	case *parse.WithNode:
		return append(servicesIn(n.List), servicesIn(n.ElseList)...)
	case *parse.ActionNode:
		for _, cmd := range n.Pipe.Cmds {
			if name, ok := cmd.Args[0].(*parse.IdentifierNode); ok && name.Ident == "services" {
				calls = append(calls, name)
			}
		}
	}
	return calls
}

// checkLines refuses texts that HAProxy could read in another way than people do.
func checkLines(t *template.Template, text string, beforeServices bool) error {
	if beforeServices && text != "" && text[len(text)-1] != '\n' {
		return fmt.Errorf("template: %s: {{services}} needs a line of its own, without anything before it", callOf(t))
	}
	if strings.Contains(text, marker) {
		return fmt.Errorf("template: %s: {{services}} cannot stand in the text of a service", callOf(t))
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return isControl(r) && r != '\n' && r != '\t' }); at >= 0 {
		line, _, _ := strings.Cut(text[strings.LastIndexByte(text[:at], '\n')+1:], "\n")
		return fmt.Errorf("template: %s: the text has control characters, in the line %.120q", position(t), line)
	}
	return nil
}
