package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// namespace is the manager's in config. In a chart it is that of the release.
const namespace = "openworkflow-system"

// editor puts templates in place of fields of an object. A template is no YAML, so a word
// stands for it until the object is text. The first error stays.
type editor struct {
	object    *kyaml.RNode
	templates []string // by the number in their words
	err       error
}

func word(i int) string { return fmt.Sprintf("HELM_%d_", i) }

// stand returns a node that stands for a template.
func (e *editor) stand(template string) *kyaml.Node {
	e.templates = append(e.templates, template)
	return kyaml.NewScalarRNode(word(len(e.templates) - 1)).YNode()
}

// at returns what is at a path, which must exist.
func (e *editor) at(path ...string) *kyaml.Node {
	found, err := e.object.Pipe(kyaml.Lookup(path...))
	if err == nil && found == nil {
		err = errors.New("it has no " + strings.Join(path, "."))
	}
	if err != nil {
		e.err = errors.Join(e.err, err)
		return &kyaml.Node{}
	}
	return found.YNode()
}

// set replaces the value at a path, which must exist, by a template. Its comment stays.
func (e *editor) set(template string, path ...string) {
	node, by := e.at(path...), e.stand(template)
	node.Kind, node.Tag, node.Style, node.Value, node.Content = by.Kind, by.Tag, by.Style, by.Value, nil
}

// put makes a template the value at a path, which may be new.
func (e *editor) put(template string, path ...string) {
	parent, err := e.object.Pipe(kyaml.LookupCreate(kyaml.MappingNode, path[:len(path)-1]...))
	if err == nil {
		err = parent.PipeE(kyaml.SetField(path[len(path)-1], kyaml.NewRNode(e.stand(template))))
	}
	e.err = errors.Join(e.err, err)
}

// replace makes lines of a template the content of the mapping at a path, which must exist.
func (e *editor) replace(template string, path ...string) {
	e.at(path...).Content = nil
	e.add(template, path...)
}

// add appends lines of a template to the mapping or the list at a path, which must exist.
func (e *editor) add(template string, path ...string) {
	node := e.at(path...)
	node.Style = 0
	node.Content = append(node.Content, e.stand(template))
	if node.Kind == kyaml.MappingNode {
		node.Content = append(node.Content, &kyaml.Node{Kind: kyaml.ScalarNode, Tag: kyaml.NodeTagNull, Value: "null"})
	}
}

// when makes the items of a list that have a text in them depend on a condition. There must
// be one.
func (e *editor) when(condition, text string, path ...string) {
	node := e.at(path...)
	var items []*kyaml.Node
	for _, item := range node.Content {
		if !strings.Contains(kyaml.NewRNode(item).MustString(), text) {
			items = append(items, item)
			continue
		}
		items = append(items, e.stand("{{- if "+condition+" }}"), item, e.stand("{{- end }}"))
	}
	if len(items) == len(node.Content) {
		e.err = errors.Join(e.err, fmt.Errorf("no item of %s has %q", strings.Join(path, "."), text))
	}
	node.Content = items
}

// labels replaces the labels that every object has by those of the chart.
func (e *editor) labels(chart string) {
	labels, err := e.object.Pipe(kyaml.LookupCreate(kyaml.MappingNode, "metadata", "labels"))
	if err != nil {
		e.err = errors.Join(e.err, err)
		return
	}
	for _, of := range []string{"app.kubernetes.io/part-of", "app.kubernetes.io/managed-by"} {
		e.err = errors.Join(e.err, labels.PipeE(kyaml.Clear(of)))
	}
	e.add(`    {{- include "`+chart+`.labels" $ | nindent 4 }}`, "metadata", "labels")
}

// text returns the object with its templates.
func (e *editor) text() (string, error) {
	if e.err != nil {
		return "", e.err
	}
	text, err := e.object.String()
	if err != nil {
		return "", fmt.Errorf("write it as YAML: %w", err)
	}
	text = strings.ReplaceAll(text, "{{", "{{ `{{` }}")
	text = strings.ReplaceAll(text, namespace, "{{ $.Release.Namespace }}")
	for i, template := range slices.All(e.templates) {
		// A word that is all there is of a line is a line of the template.
		line := regexp.MustCompile(`(?m)^ *(?:- )?` + word(i) + `(?:: null)?$`)
		if at := line.FindStringIndex(text); at != nil {
			text = text[:at[0]] + template + text[at[1]:]
			continue
		}
		text = strings.Replace(text, word(i), template, 1)
	}
	return text, nil
}
