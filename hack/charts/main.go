// Command charts writes what is generated of the Helm charts: the templates, from the
// manifests in config, and the tables of values in the READMEs, from the comments in the
// values.yaml. So Helm and kustomize install the same objects. The other files of a chart are
// written by hand.
//
//	go run ./hack/charts [CHARTS]
//
// It reads config of the working directory. CHARTS, by default charts, has the charts.
//
//	main.go    what becomes a template, and under which value
//	edits.go   which fields of an object become values
//	editor.go  an object, with templates in place of some of its fields, as text
//	values.go  the tables of values
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
)

// parts are the directories of config, each of which becomes a template of the same name.
// Objects of config/default that are in none of them are an error.
var parts = []struct{ directory, when string }{
	{"manager", ""},
	{"rbac", ""},
	{"data-api", ".Values.dataAPI.enabled"},
	{"policy", ".Values.policies.enabled"},
	{"created-by", `include "openworkflow.createdBy" .`},
	{"network-policy", ".Values.networkPolicy.enabled"},
	{"apiservice", ".Values.dataAPI.apiService.enabled"},
	{"prometheus", ".Values.metrics.serviceMonitor.enabled"},
}

func main() {
	charts := "charts"
	if len(os.Args) > 1 {
		charts = os.Args[1]
	}
	if err := generate("config", charts); err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}

func generate(config, charts string) error {
	for chart, write := range map[string]func(config, into string) error{
		"openworkflow": writeOperator, "openworkflow-crds": writeCRDs,
	} {
		directory := filepath.Join(charts, chart)
		if err := removeTemplates(directory); err != nil {
			return err
		}
		if err := write(config, filepath.Join(directory, "templates")); err != nil {
			return fmt.Errorf("write chart %s: %w", chart, err)
		}
		if err := writeTable(directory); err != nil {
			return fmt.Errorf("describe the values of chart %s: %w", chart, err)
		}
	}
	return nil
}

// removeTemplates removes what an earlier run has written.
func removeTemplates(chart string) error {
	old, err := filepath.Glob(filepath.Join(chart, "templates", "*.yaml"))
	if err != nil {
		return fmt.Errorf("find the templates of %s: %w", chart, err)
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove an old template: %w", err)
		}
	}
	return nil
}

// writeCRDs writes a template for each custom resource. All in config/crd/bases must be in the
// kustomization.
func writeCRDs(config, into string) error {
	crds, err := build(filepath.Join(config, "crd"))
	if err != nil {
		return err
	}
	bases, err := filepath.Glob(filepath.Join(config, "crd/bases/*.yaml"))
	if err != nil {
		return fmt.Errorf("find the custom resources: %w", err)
	}
	if len(bases) != len(crds) {
		return fmt.Errorf("config/crd/bases has %d files, and config/crd/kustomization.yaml makes %d objects of them: name each file there", len(bases), len(crds))
	}
	for _, crd := range crds {
		text, err := template("openworkflow-crds", crd, keep)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(into, crd.GetName()+".yaml"), "config/crd", "", text); err != nil {
			return err
		}
	}
	return nil
}

// writeOperator writes a template for each of the parts, and two for an installation in some
// namespaces only.
func writeOperator(config, into string) error {
	all, err := build(filepath.Join(config, "default"))
	if err != nil {
		return err
	}
	namespaced, err := build(filepath.Join(config, "namespaced"))
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, part := range parts {
		objects, err := build(filepath.Join(config, part.directory))
		if err != nil {
			return err
		}
		var text strings.Builder
		for _, object := range objects {
			done[key(object)] = true
			if object.GetKind() == "Namespace" { // Helm's --create-namespace
				continue
			}
			one, err := template("openworkflow", object, edits[key(object)])
			if err != nil {
				return err
			}
			if has(all, object) && !has(namespaced, object) {
				one = conditional("not .Values.namespaces", one)
			}
			text.WriteString(one)
		}
		if err := write(filepath.Join(into, part.directory+".yaml"), "config/"+part.directory, part.when, text.String()); err != nil {
			return err
		}
	}
	for _, object := range all {
		if !done[key(object)] && object.GetKind() != "CustomResourceDefinition" {
			return fmt.Errorf("config/default has %s, which is in no template: name its directory in hack/charts/main.go", key(object))
		}
	}
	return writeNamespaced(config, into, namespaced, done)
}

// writeNamespaced writes what config/namespaced has and the parts have not, and the roles of
// a namespace, for each namespace.
func writeNamespaced(config, into string, namespaced []*kyaml.RNode, done map[string]bool) error {
	var text strings.Builder
	for _, object := range namespaced {
		if done[key(object)] || object.GetKind() == "CustomResourceDefinition" {
			continue
		}
		one, err := template("openworkflow", object, nil)
		if err != nil {
			return err
		}
		text.WriteString(one)
	}
	if err := write(filepath.Join(into, "namespaced.yaml"), "config/namespaced", ".Values.namespaces", text.String()); err != nil {
		return err
	}
	tenant, err := build(filepath.Join(config, "namespaced/tenant"))
	if err != nil {
		return err
	}
	text.Reset()
	text.WriteString("{{- range .Values.namespaces }}\n")
	for _, object := range tenant {
		one, err := template("openworkflow", object, func(e *editor) { e.put("{{ . }}", "metadata", "namespace") })
		if err != nil {
			return err
		}
		text.WriteString(one)
	}
	text.WriteString("{{- end }}\n")
	return write(filepath.Join(into, "tenant.yaml"), "config/namespaced/tenant", "", text.String())
}

// build returns the objects that kustomize makes of a directory, in the order of its files.
func build(directory string) ([]*kyaml.RNode, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", directory, err)
	}
	return built.ToRNodeSlice(), nil
}

// key names an object among those of an installation.
func key(object *kyaml.RNode) string {
	return object.GetKind() + " " + strings.TrimPrefix(object.GetNamespace()+"/"+object.GetName(), "/")
}

func has(objects []*kyaml.RNode, object *kyaml.RNode) bool {
	return slices.ContainsFunc(objects, func(o *kyaml.RNode) bool { return key(o) == key(object) })
}

// template returns an object as a document of a chart's template.
func template(chart string, object *kyaml.RNode, edit func(*editor)) (string, error) {
	e := &editor{object: object}
	e.labels(chart)
	if edit != nil {
		edit(e)
	}
	text, err := e.text()
	if err != nil {
		return "", fmt.Errorf("make a template of %s: %w", key(object), err)
	}
	return "---\n" + text, nil
}

// conditional returns a text that is there while a condition holds.
func conditional(condition, text string) string {
	return "{{- if " + condition + " }}\n" + text + "{{- end }}\n"
}

// write writes a template.
func write(file, from, when, text string) error {
	if text == "" {
		return errors.New(from + " has no objects")
	}
	if when != "" {
		text = conditional(when, text)
	}
	text = "{{- /* Written by \"make charts\". Change " + from + " instead. */}}\n" + text
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write a template: %w", err)
	}
	return nil
}
