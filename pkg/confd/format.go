package confd

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"

	"github.com/BurntSushi/toml"
)

// checkFormat refuses an output_format that nobody knows.
func checkFormat(name string) error {
	switch name {
	case "", "json", "yaml", "yml", "toml", "xml":
		return nil
	}
	return fmt.Errorf("output_format %q: want json, yaml, toml or xml", name)
}

// wellFormed tells what is wrong with a text that is to be of a format.
func wellFormed(text []byte, format string) (err error) {
	switch format {
	case "json":
		err = json.Unmarshal(text, new(any))
	case "yaml", "yml":
		err = readYAML(string(text), new(any))
	case "toml":
		if err = tangled(string(text)); err == nil {
			err = toml.Unmarshal(text, new(any))
		}
	case "xml":
		err = readXML(text)
	}
	if err != nil {
		return fmt.Errorf("output_format %s: %w", format, err)
	}
	return nil
}

func readXML(text []byte) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	elements := 0
	for {
		t, err := d.Token()
		switch {
		case errors.Is(err, io.EOF) && elements == 0:
			return errors.New("there is no element")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if _, ok := t.(xml.StartElement); ok {
			elements++
		}
	}
}
