// Command modeldoc writes what docs/template.md says of the model, the functions and the parts of the
// built-in template anew, from the comments in pkg/render, pkg/service and the template itself. The prose
// between is left as it is. Run it by `make docs`; a test fails while the page is stale.
package main

import (
	"fmt"
	"os"
	"regexp"
)

const pagePath = "docs/template.md"

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "modeldoc:", err)
		os.Exit(1)
	}
}

// run writes the page of the tree at root anew.
func run(root string) error {
	path := root + "/" + pagePath
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err := fresh(root, string(old))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(page), 0o644) //nolint:gosec // a page for everybody
}

// region is a part of the page that is made, with its name.
var region = regexp.MustCompile(`(?s)<!-- generated: ([a-z]+) -->\n.*?<!-- end -->`)

// fresh is the page with all that is generated made anew.
func fresh(root, page string) (string, error) {
	c, err := readComments(root)
	if err != nil {
		return "", err
	}
	makers := map[string]func() (string, error){"functions": c.functions, "model": c.model, "defines": c.defines}
	page = region.ReplaceAllStringFunc(page, func(old string) string {
		name := region.FindStringSubmatch(old)[1]
		maker, ok := makers[name]
		if !ok {
			err = fmt.Errorf("%s: nothing makes %q", pagePath, name)
			return old
		}
		delete(makers, name)
		text, failed := maker()
		if failed != nil {
			err = failed
		}
		return fmt.Sprintf("<!-- generated: %s -->\n%s<!-- end -->", name, text)
	})
	for name := range makers {
		return "", fmt.Errorf("%s has no part <!-- generated: %s --> … <!-- end -->: %w", pagePath, name, err)
	}
	return page, err
}
