package declared

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// How far brackets may be nested, on a line and over lines (where one in a text may lack its other half): the
// parser's time and memory grow with the square.
const (
	deepest     = 20
	deepestOpen = 100
)

// entry is one item of a services file: what it says, by key, each with its place.
type entry struct {
	at    place
	pairs []pair
	err   error // of its form
}

// pair is one thing that an entry says.
type pair struct {
	at        place
	key, text string
}

// place is a position in a file, from 1.
type place struct{ line, column int }

// wrong says what is wrong there.
func (p place) wrong(err error) error { return fmt.Errorf("%d:%d: %w", p.line, p.column, err) }

// placeOf is where a node begins; the token of a map is its first colon.
func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, t.Position.Column}
}

// parse takes a services file apart: a list of maps. A fault of one entry's form is its own; one of
// the file's is returned, and begins with its place.
func parse(text string) (entries []entry, err error) {
	if err := tooDeep(text); err != nil {
		return nil, err
	}
	defer func() { // what a file says must not end the agent, whatever the parser makes of it
		if r := recover(); r != nil {
			entries, err = nil, place{1, 1}.wrong(fmt.Errorf("this is no YAML that can be read (%v)", r))
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0)
	if syntax, ok := errors.AsType[yaml.Error](err); ok {
		return nil, placeOfToken(syntax.GetToken()).wrong(fmt.Errorf("this is no YAML: %s", syntax.GetMessage()))
	}
	if err != nil {
		return nil, place{1, 1}.wrong(fmt.Errorf("this is no YAML: %w", err))
	}
	for _, doc := range file.Docs {
		list, ok := doc.Body.(*ast.SequenceNode)
		switch {
		case ok:
			for _, item := range list.Values {
				entries = append(entries, read(item))
			}
		case doc.Body != nil && doc.Body.Type() != ast.CommentType && doc.Body.Type() != ast.NullType:
			return nil, placeOf(doc.Body).wrong(errors.New("a services file is a list: write each service as an item that begins with \"- service: NAME\""))
		}
	}
	return entries, nil
}

// tooDeep refuses text whose nesting would keep the parser busy.
func tooDeep(text string) error {
	line, nested := 0, 0
	for l := range strings.Lines(text) {
		line++
		open := strings.Count(l, "[") + strings.Count(l, "{")
		nested = max(0, nested+open-strings.Count(l, "]")-strings.Count(l, "}"))
		if open > deepest || nested > deepestOpen || strings.Count(l, "- ") > 2*deepest || strings.Count(l, "? ") > 2*deepest {
			return place{line, 1}.wrong(errors.New("this line has more brackets or dashes than any service needs; spread it over several lines"))
		}
	}
	return nil
}

// read takes one item apart.
func read(item ast.Node) entry {
	m, ok := item.(*ast.MappingNode)
	if !ok || len(m.Values) == 0 {
		at := placeOf(item)
		return entry{at: at, err: at.wrong(errors.New("an item is a map: write service: NAME and address: IP:PORT"))}
	}
	e := entry{at: placeOf(m)}
	e.pairs, e.err = pairsOf("", m)
	return e
}

// pairsOf lists what a map says. One within it goes on with its key: meta: {team: shop} is meta.team.
func pairsOf(prefix string, m *ast.MappingNode) ([]pair, error) {
	var pairs []pair
	var errs []error
	for _, v := range m.Values {
		t := v.Key.GetToken()
		at, key := placeOfToken(t), prefix+t.Value
		if inner, ok := v.Value.(*ast.MappingNode); ok && v.Key.Type() != ast.MergeKeyType {
			more, err := pairsOf(key+".", inner)
			pairs, errs = append(pairs, more...), append(errs, err)
			continue
		}
		text, err := textOf(v.Value)
		if v.Key.Type() == ast.MergeKeyType {
			err = errSpelledOut
		}
		if err != nil {
			errs = append(errs, at.wrong(fmt.Errorf("%.60q: %w", key, err)))
			continue
		}
		pairs = append(pairs, pair{at, key, text})
	}
	return pairs, errors.Join(errs...)
}

var (
	errSpelledOut = errors.New("anchors, aliases, tags and merges are not taken: spell it out")
	errNoText     = errors.New("want text, a number, true or false, or a list of these")
)

// textOf is a value as a label would say it: a list with commas.
func textOf(value ast.Node) (string, error) {
	list, ok := value.(*ast.SequenceNode)
	if !ok {
		return scalar(value)
	}
	items := make([]string, 0, len(list.Values))
	for _, v := range list.Values {
		text, err := scalar(v)
		if err != nil {
			return "", err
		}
		if strings.Contains(text, ",") {
			return "", fmt.Errorf("the item %.40q of a list has a comma in it", text)
		}
		items = append(items, text)
	}
	return strings.Join(items, ","), nil
}

func scalar(value ast.Node) (string, error) {
	switch v := value.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return strings.TrimRight(v.Value.Value, "\n"), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return v.GetToken().Value, nil
	case *ast.NullNode:
		return "", errors.New("there is no value")
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return "", errSpelledOut
	default:
		return "", errNoText
	}
}
