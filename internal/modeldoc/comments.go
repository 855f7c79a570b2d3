package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// comments is what is said of types and functions, by "package.Name".
type comments struct {
	types   map[string]declared
	methods map[string][]*ast.FuncDecl // by the type that they are of
	calls   []function
	builtin string // the built-in template
}

// declared is a type and what is said of it.
type declared struct {
	spec *ast.TypeSpec
	doc  string
}

// function is one that templates can call.
type function struct{ call, gives string }

// readComments reads the packages that the model's types are in.
func readComments(root string) (*comments, error) {
	builtin, err := os.ReadFile(filepath.Join(root, "templates/haproxy.cfg.tmpl"))
	if err != nil {
		return nil, err
	}
	c := &comments{types: map[string]declared{}, methods: map[string][]*ast.FuncDecl{}, builtin: string(builtin)}
	for _, pkg := range []string{"render", "service"} {
		paths, err := filepath.Glob(filepath.Join(root, "pkg", pkg, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			if err := c.read(pkg, path); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (c *comments) read(pkg, path string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.GenDecl:
			c.readTypes(pkg, decl)
		case *ast.FuncDecl:
			if decl.Recv != nil && decl.Name.IsExported() {
				of := pkg + "." + strings.TrimPrefix(source(decl.Recv.List[0].Type), "*")
				c.methods[of] = append(c.methods[of], decl)
			}
			if pkg == "render" && decl.Recv == nil && decl.Name.Name == "functions" {
				c.calls, err = readFunctions(ast.NewCommentMap(fset, decl, file.Comments), decl)
			}
		}
	}
	return err
}

func (c *comments) readTypes(pkg string, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		if spec, ok := spec.(*ast.TypeSpec); ok {
			doc := spec.Doc.Text()
			if doc == "" {
				doc = decl.Doc.Text()
			}
			c.types[pkg+"."+spec.Name.Name] = declared{spec, doc}
		}
	}
}

// readFunctions reads the comment above each entry of the map of functions.
func readFunctions(above ast.CommentMap, decl *ast.FuncDecl) (list []function, err error) {
	ast.Inspect(decl, func(n ast.Node) bool {
		entry, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		name := strings.Trim(source(entry.Key), `"`)
		var text string
		for _, group := range above[entry] {
			text = strings.TrimSpace(group.Text())
		}
		call, gives, ok := strings.Cut(text, ": ")
		if !ok || strings.Fields(call)[0] != strings.TrimSuffix(name, ",") && !strings.HasPrefix(call, name+",") {
			err = errors.Join(err, fmt.Errorf("function %s: write a comment above it, such as // %s TEXT: what it gives", name, name))
		}
		list = append(list, function{call, gives})
		return false
	})
	return list, err
}

// definition is a define of the built-in template below a comment.
var definition = regexp.MustCompile(`\{\{-? /\*((?:[^*]|\*[^/])*)\*/ ?-?\}\}\s*\{\{-? *define "([^"]*)"`)

// defines is the table of the built-in template's parts.
func (c *comments) defines() (string, error) {
	var b strings.Builder
	b.WriteString("| define | is |\n|---|---|\n")
	for _, found := range definition.FindAllStringSubmatch(c.builtin, -1) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", found[2], cell(found[1]))
	}
	return b.String(), nil
}

// functions is the table of what templates can call.
func (c *comments) functions() (string, error) {
	if len(c.calls) == 0 {
		return "", errors.New("pkg/render has no func functions any more: teach modeldoc where they are")
	}
	var b strings.Builder
	b.WriteString("| function | gives |\n|---|---|\n")
	for _, f := range c.calls {
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(f.call, ", ", "`, `"), cell(f.gives))
	}
	return b.String(), nil
}

// code is what stands out in a text: options, and what is in quotes.
var code = regexp.MustCompile(`--[a-z][a-z-]*|"[^" ]+[^"]*"|^[a-z-]+=[A-Za-z,…]+(?:: )`)

// cell is a text as it stands in a table.
func cell(text string) string {
	text = strings.TrimSuffix(strings.Join(strings.Fields(text), " "), ".")
	parts := strings.Split(text, "`")
	for i := 0; i < len(parts); i += 2 { // those between are code already
		parts[i] = code.ReplaceAllStringFunc(linked(parts[i]), func(word string) string {
			inner, colon := strings.CutSuffix(word, ": ")
			if colon {
				return "`" + inner + "`: "
			}
			return "`" + strings.Trim(inner, `"`) + "`"
		})
	}
	return strings.ReplaceAll(strings.Join(parts, "`"), "|", `\|`)
}

// link is a mention in a comment of something that Go's own documentation would lead to.
var link = regexp.MustCompile(`\[([A-Z][A-Za-z]*)(\.[A-Za-z]+)?\]`)

// linked turns these into links to the sections of types, and fields of these.
func linked(text string) string {
	return link.ReplaceAllStringFunc(text, func(mention string) string {
		parts := link.FindStringSubmatch(mention)
		name := "[" + parts[1] + "](#" + strings.ToLower(parts[1]) + ")"
		if parts[2] != "" {
			name += "'s `" + parts[2] + "`"
		}
		return name
	})
}

// source is an expression in Go's words.
func source(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.BasicLit:
		return e.Value
	case *ast.StarExpr:
		return "*" + source(e.X)
	case *ast.ArrayType:
		return "[]" + source(e.Elt)
	case *ast.SelectorExpr:
		return source(e.X) + "." + e.Sel.Name
	case *ast.MapType:
		return "map[" + source(e.Key) + "]" + source(e.Value)
	}
	return ""
}

// paragraphs are a comment's, without the first words "Name is" that Go's comments begin with.
func paragraphs(doc string) string {
	parts := strings.Split(strings.TrimSpace(doc), "\n\n")
	for i, part := range parts {
		parts[i] = linked(strings.Join(strings.Fields(part), " "))
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "\n\n")
}
