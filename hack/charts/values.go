package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// value is a value of a chart that users set.
type value struct {
	path, description string
	fallback          string // in JSON
}

// writeTable writes the table of values in a chart's README.
func writeTable(chart string) error {
	values, err := readValues(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	table := "| Value | Default | Meaning |\n|---|---|---|\n"
	if len(values) == 0 {
		table = "It has none.\n"
	}
	for _, v := range values {
		table += fmt.Sprintf("| `%s` | `%s` | %s |\n", v.path, v.fallback, v.description)
	}
	file := filepath.Join(chart, "README.md")
	page, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	before, rest, opened := bytes.Cut(page, []byte("<!-- values -->\n"))
	_, after, closed := bytes.Cut(rest, []byte("<!-- end of values -->\n"))
	if !opened || !closed {
		return fmt.Errorf("%s has no lines <!-- values --> and <!-- end of values -->", file)
	}
	page = fmt.Appendf(nil, "%s<!-- values -->\n%s<!-- end of values -->\n%s", before, table, after)
	if err := os.WriteFile(file, page, 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// readValues returns the values of a values.yaml. A value has a comment; a mapping without one
// holds values.
func readValues(file string) ([]value, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the values: %w", err)
	}
	root, err := kyaml.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	return valuesOf("", root.YNode())
}

func valuesOf(prefix string, mapping *kyaml.Node) ([]value, error) {
	var values []value
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, node := mapping.Content[i], mapping.Content[i+1]
		path := prefix + key.Value
		if key.HeadComment == "" {
			if node.Kind != kyaml.MappingNode || len(node.Content) == 0 {
				return nil, errors.New(path + " has no comment above it that says what it means")
			}
			inner, err := valuesOf(path+".", node)
			if err != nil {
				return nil, err
			}
			values = append(values, inner...)
			continue
		}
		fallback, err := inJSON(node)
		if err != nil {
			return nil, fmt.Errorf("read the default of %s: %w", path, err)
		}
		values = append(values, value{path: path, description: sentence(key.HeadComment), fallback: fallback})
	}
	return values, nil
}

// sentence returns the text of a comment in one line.
func sentence(comment string) string {
	var words []string
	for line := range strings.Lines(comment) {
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "#"))...)
	}
	return strings.ReplaceAll(strings.Join(words, " "), "|", `\|`)
}

func inJSON(node *kyaml.Node) (string, error) {
	var decoded any
	if err := node.Decode(&decoded); err != nil {
		return "", err
	}
	encoded, err := json.Marshal(decoded)
	return string(encoded), err
}
