package confd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
)

// nested is how many brackets may be open at once, and dashes begin lists on a line.
const nested = 1000

// readYAML reads YAML, which may be made of values of the registry.
func readYAML(text string, to any) (err error) {
	defer func() { // what it says must not end the agent, whatever the parser makes of it
		if r := recover(); r != nil {
			err = fmt.Errorf("this is no YAML that can be read (%v)", r)
		}
	}()
	if err := tangled(text); err != nil {
		return err
	}
	err = yaml.Unmarshal([]byte(text), to)
	if syntax, ok := errors.AsType[yaml.Error](err); ok && syntax.GetToken() != nil { // else its text has several lines
		at := syntax.GetToken().Position
		return fmt.Errorf("line %d, column %d: %s", at.Line, at.Column, syntax.GetMessage())
	}
	return err
}

// tangled refuses text that would keep a parser busy, whose time or memory grows with the square of the nesting.
func tangled(text string) error {
	if len(text) > largestTemplate {
		return fmt.Errorf("%d bytes: at most %d can be judged", len(text), largestTemplate)
	}
	line, open := 0, 0
	for l := range strings.Lines(text) {
		line++
		deepest := max(strings.Count(l, "- "), strings.Count(l, "? "))
		for _, c := range l {
			switch c {
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			}
			deepest = max(deepest, open)
		}
		if deepest > nested {
			return fmt.Errorf("line %d: more than %d brackets or dashes within each other", line, nested)
		}
	}
	return nil
}
