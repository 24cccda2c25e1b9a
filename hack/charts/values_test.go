package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// parents are what a chart is given as a part of another one, so its schema must allow them:
// Helm's own global, and enabled, for the condition of a dependency.
var parents = []string{"enabled", "global"}

type schema struct {
	Type                 any               `json:"type"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties any               `json:"additionalProperties"`
}

// TestSchema_P7_KnowsEveryValueAndNoOther holds for both charts that a misspelt value is
// refused, and that a value that is new gets a type.
func TestSchema_P7_KnowsEveryValueAndNoOther(t *testing.T) {
	t.Parallel()
	for _, chart := range []string{"openworkflow", "openworkflow-crds"} {
		t.Run(chart, func(t *testing.T) {
			t.Parallel()
			directory := filepath.Join("../../charts", chart)
			text, err := os.ReadFile(filepath.Join(directory, "values.schema.json"))
			if err != nil {
				t.Fatal(err)
			}
			var root schema
			if err := json.Unmarshal(text, &root); err != nil {
				t.Fatal(err)
			}
			for _, name := range parents {
				if _, there := root.Properties[name]; !there {
					t.Errorf("the schema refuses %s, so the chart cannot be a dependency", name)
				}
				delete(root.Properties, name)
			}
			values, err := os.ReadFile(filepath.Join(directory, "values.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			compareSchema(t, "", root, parseValues(t, values))
		})
	}
}

// compareSchema compares a schema with the mapping that it describes.
func compareSchema(t *testing.T, path string, s schema, of map[string]any) {
	t.Helper()
	if s.AdditionalProperties != false {
		t.Errorf("the schema of %q allows values that do not exist", path)
	}
	names, known := slices.Sorted(maps.Keys(of)), slices.Sorted(maps.Keys(s.Properties))
	if !slices.Equal(names, known) {
		t.Errorf("%q: values.yaml has %q, the schema %q", path, names, known)
	}
	for name, value := range of {
		member := s.Properties[name]
		if member.Type == nil {
			t.Errorf("the schema gives %s%s no type", path, name)
		}
		if inner, is := value.(map[string]any); is && len(inner) > 0 && name != "resources" {
			compareSchema(t, path+name+".", member, inner)
		}
	}
}

func parseValues(t *testing.T, text []byte) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := kyaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func TestReadValues_P7_RefusesAValueThatNobodyExplains(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ values, want string }{
		"scalar":        {"# Known.\na: 1\n\nb: 2\n", "b has no comment"},
		"within":        {"a:\n  b: 2\n", "a.b has no comment"},
		"empty mapping": {"a: {}\n", "a has no comment"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(test.values), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readValues(file); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestReadValues_TakesTheCommentAboveAValue(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "values.yaml")
	text := "# One,\n# in two lines: a|b.\na: []\nb:\n  # Two.\n  c: {x: 1}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readValues(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []value{{"a", `One, in two lines: a\|b.`, "[]"}, {"b.c", "Two.", `{"x":1}`}}
	if !slices.Equal(got, want) {
		t.Errorf("values are %q, want %q", got, want)
	}
}
