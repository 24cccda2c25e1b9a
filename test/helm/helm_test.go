//go:build helm

// Package helm tests the charts with the real Helm, version 4 and version 3: what they render,
// against kustomize's output, and on the development cluster how they are installed, upgraded,
// rolled back and removed. "make helm-test" runs it; with TESTFLAGS=-short it needs no cluster.
package helm

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	// root is the checkout.
	root = "../.."
	// operator and crds are the charts.
	operator, crds = root + "/charts/openworkflow", root + "/charts/openworkflow-crds"
	// system is the namespace in config.
	system = "openworkflow-system"
)

// mutating tells Helm of a cluster that serves MutatingAdmissionPolicy.
var mutating = []string{"--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"}

// helm is one version of Helm.
type helm struct {
	*testing.T
	program string
	version int
}

// programs are the pinned versions, built if they are missing.
var programs = map[int]func() (string, error){
	4: sync.OnceValues(func() (string, error) { return tool("helm") }),
	3: sync.OnceValues(func() (string, error) { return tool("helm3") }),
}

func tool(name string) (string, error) {
	build := exec.Command("hack/tool.sh", name) //nolint:noctx // the build is shared by all tests
	build.Dir, build.Stderr = root, os.Stderr
	out, err := build.Output()
	return strings.TrimSpace(string(out)), err
}

// withEach runs a test with each version of Helm, one after the other.
func withEach(t *testing.T, test func(helm)) {
	t.Helper()
	for version, program := range programs {
		t.Run(map[int]string{3: "Helm 3", 4: "Helm 4"}[version], func(t *testing.T) {
			path, err := program()
			if err != nil {
				t.Fatal(err)
			}
			test(helm{t, path, version})
		})
	}
}

// try runs Helm and returns what it prints.
func (h helm) try(args ...string) (stdout, stderr string, err error) {
	h.Helper()
	return run(h.Context(), h.program, args...)
}

func run(ctx context.Context, program string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Stdout, command.Stderr = &out, &errs
	err = command.Run()
	return out.String(), errs.String(), err
}

// must runs Helm, which must succeed, and returns its standard output.
func (h helm) must(args ...string) string {
	h.Helper()
	stdout, stderr, err := h.try(args...)
	if err != nil {
		h.Fatalf("helm %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// template renders a chart into a namespace. Helm does not look at a cluster then, so it knows the
// kinds that newer clusters serve only by "--api-versions".
func (h helm) template(chart, namespace string, args ...string) string {
	h.Helper()
	return h.must(append([]string{"template", "test", chart, "--namespace", namespace, "--kube-version", "1.37.0"}, args...)...)
}

func TestCharts_AreLinted(t *testing.T) {
	t.Parallel()
	withEach(t, func(h helm) {
		h.must("lint", "--strict", "--kube-version", "1.37.0", operator, crds)
	})
}

// objects returns the objects of a stream of YAML, by kind, namespace and name, without what
// says who has installed them.
func objects(t *testing.T, stream string) map[string]map[string]any {
	t.Helper()
	of := map[string]map[string]any{}
	for document := range strings.SplitSeq("\n"+stream, "\n---") {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if object == nil {
			continue
		}
		metadata := object["metadata"].(map[string]any)
		for _, key := range []string{"managed-by", "instance", "version"} {
			remove(metadata, "labels", "app.kubernetes.io/"+key)
		}
		remove(metadata, "labels", "helm.sh/chart")
		remove(metadata, "annotations", "helm.sh/resource-policy")
		namespace, _ := metadata["namespace"].(string)
		key := object["kind"].(string) + " " + namespace + "/" + metadata["name"].(string)
		if of[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		of[key] = object
	}
	return of
}

// remove removes a key from a map in a map, and the map with its last key.
func remove(from map[string]any, field, key string) {
	if in, is := from[field].(map[string]any); is {
		if delete(in, key); len(in) == 0 {
			delete(from, field)
		}
	}
}

// kustomize builds directories of config together.
func kustomize(t *testing.T, more string, directories ...string) map[string]map[string]any {
	t.Helper()
	overlay, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text := more + "\nlabels: [{pairs: {app.kubernetes.io/part-of: openworkflow}}]\nresources:\n"
	for _, directory := range directories {
		absolute, err := filepath.Abs(filepath.Join(root, "config", directory))
		if err != nil {
			t.Fatal(err)
		}
		relative, err := filepath.Rel(overlay, absolute)
		if err != nil {
			t.Fatal(err)
		}
		text += "- " + relative + "\n"
	}
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, string(stream))
}

// without returns the objects that are not in others, and are no custom resources and no
// namespace: those are the other chart's and --create-namespace's.
func without(of, others map[string]map[string]any) map[string]map[string]any {
	left := map[string]map[string]any{}
	for key, object := range of {
		if kind := object["kind"]; others[key] == nil && kind != "CustomResourceDefinition" && kind != "Namespace" {
			left[key] = object
		}
	}
	return left
}

func TestCharts_RenderWhatKustomizeBuilds(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		values []string
		want   func(t *testing.T) map[string]map[string]any
	}{
		"default": {nil, func(t *testing.T) map[string]map[string]any {
			return without(kustomize(t, "", "default"), nil)
		}},
		"with all options": {
			[]string{"--set", "dataAPI.apiService.enabled=true,metrics.serviceMonitor.enabled=true"},
			func(t *testing.T) map[string]map[string]any {
				return without(kustomize(t, "", "default", "apiservice", "prometheus"), nil)
			},
		},
		"without policies": {
			append([]string{"--set", "policies.enabled=false,networkPolicy.enabled=false"}, mutating...),
			func(t *testing.T) map[string]map[string]any {
				return without(kustomize(t, "", "default"), kustomize(t, "", "policy", "network-policy"))
			},
		},
		"where the API server writes who has created a signal": {mutating, func(t *testing.T) map[string]map[string]any {
			return without(kustomize(t, "", "default", "created-by"), nil)
		}},
		"in some namespaces": {
			[]string{"--set", "namespaces={default}"},
			func(t *testing.T) map[string]map[string]any {
				want := without(kustomize(t, "", "namespaced"), nil)
				maps.Copy(want, kustomize(t, "namespace: default", "namespaced/tenant"))
				return want
			},
		},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := test.want(t)
			withEach(t, func(h helm) {
				got := objects(h.T, h.template(operator, system, test.values...))
				if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
					h.Errorf("%d objects; (-kustomize +helm):\n%s", len(got), diff)
				}
			})
		})
	}
}

// TestCharts_TheNotesSayWhetherCreatorsAreWritten needs no cluster: a dry run of Helm 4 knows no kinds
// of it. Helm 3 asks for them.
func TestCharts_TheNotesSayWhetherCreatorsAreWritten(t *testing.T) {
	t.Parallel()
	const note = "Nobody writes who has created a WorkflowSignal"
	program, err := programs[4]()
	if err != nil {
		t.Fatal(err)
	}
	h := helm{t, program, 4}
	for setting, want := range map[string]bool{"policies.createdBy.enabled=true": true, "policies.createdBy.enabled=false": false} {
		notes := h.must("install", "test", operator, "--namespace", system, "--dry-run=client", "--set", setting)
		if got := strings.Contains(notes, note); got != want {
			t.Errorf("with %s, the notes say so: %v, want %v:\n%s", setting, got, want, notes[strings.Index(notes, "NOTES:"):])
		}
	}
}

func TestCharts_RenderTheCustomResourcesOfKustomize(t *testing.T) {
	t.Parallel()
	want := kustomize(t, "", "crd")
	withEach(t, func(h helm) {
		text := h.template(crds, system)
		if diff := cmp.Diff(want, objects(h.T, text)); diff != "" {
			h.Errorf("(-kustomize +helm):\n%s", diff)
		}
		if kept := strings.Count(text, "\n    helm.sh/resource-policy: keep\n"); kept != len(want) {
			h.Errorf("%d of %d custom resources are kept", kept, len(want))
		}
	})
}

// TestCharts_P9_FollowTheNamespaceOfTheRelease holds that the roles, and the policy that confines
// the manager, are about the manager that was installed.
func TestCharts_P9_FollowTheNamespaceOfTheRelease(t *testing.T) {
	t.Parallel()
	withEach(t, func(h helm) {
		text := h.template(operator, "elsewhere", "--set", "dataAPI.apiService.enabled=true,metrics.serviceMonitor.enabled=true,namespaces={shop,bank}")
		if at := strings.Index(text, system); at >= 0 {
			h.Errorf("the namespace of config is left in ...%s...", text[max(0, at-100):min(len(text), at+100)])
		}
		for _, want := range []string{
			"request.userInfo.username == 'system:serviceaccount:elsewhere:openworkflow-manager'",
			"\n  namespace: shop\n", "\n  namespace: bank\n",
		} {
			if !strings.Contains(text, want) {
				h.Errorf("no %q in\n%s", want, text)
			}
		}
	})
}

// TestCharts_CanBePartsOfAnotherChart holds that the schemas allow what Helm and a parent add.
func TestCharts_CanBePartsOfAnotherChart(t *testing.T) {
	t.Parallel()
	withEach(t, func(h helm) {
		parent := h.TempDir()
		for file, text := range map[string]string{
			"Chart.yaml": "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n" +
				"- {name: openworkflow-crds, version: '*', condition: openworkflow-crds.enabled, repository: 'file://" + absolute(h.T, crds) + "'}\n" +
				"- {name: openworkflow, alias: flows, version: '*', condition: flows.enabled, repository: 'file://" + absolute(h.T, operator) + "'}\n",
			"values.yaml": "global: {team: a}\nflows: {enabled: true, replicas: 2}\nopenworkflow-crds: {enabled: false}\n",
		} {
			if err := os.WriteFile(filepath.Join(parent, file), []byte(text), 0o600); err != nil {
				h.Fatal(err)
			}
		}
		h.must("dependency", "update", parent)
		got := objects(h.T, h.template(parent, system))
		manager := got["Deployment "+system+"/openworkflow-manager"]
		if manager == nil || manager["spec"].(map[string]any)["replicas"] != float64(2) {
			h.Errorf("the manager is %v", manager)
		}
		if diff := len(got) - len(objects(h.T, h.template(operator, system))); diff != 0 {
			h.Errorf("the parent renders %d objects more", diff)
		}
	})
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
