package docs_test

import (
	"bytes"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/openworkflow-operator/operator/"

// onlyInTests are the packages that no program links.
var onlyInTests = []string{
	"testing", module + "internal/testpg", module + "internal/crdtest", module + "internal/faults", module + "internal/memstore", module + "internal/exampletest",
	module + "internal/dataapi/dataapitest",
	module + "workflow/workflowtest",
}

// Depguard sees what a file imports; this test sees what a program links, so it also finds
// what comes in through a package that no rule of depguard lists.
func TestProgramsLinkOnlyWhatTheyNeed(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]struct {
		packages string
		never    []string
	}{
		"worker": {"./examples/...", []string{
			"sigs.k8s.io/controller-runtime", // caches and informers, which double the packages of a program
			"github.com/prometheus",          // a worker serves no metrics
			"k8s.io/apiserver",
			module + "internal/controller",
			module + "internal/dataapi",
			module + "internal/metrics",
			module + "cmd",
		}},
		"manager": {"./cmd/manager", []string{
			module + "internal/runner", // the manager never executes workflow code
			module + "internal/durable",
			module + "step",
			module + "worker",
			module + "workflow",
			module + "internal/reporter", // how a worker writes status; the manager has a client of its own
			module + "internal/tracing",  // runs are traced where they execute
			"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp", // only workers send traces over HTTP
		}},
		"plugin": {"./cmd/kubectl-workflow", []string{
			"sigs.k8s.io/controller-runtime", // one request per question: it keeps no caches
			"k8s.io/apiserver",
			module + "internal/backend", // it asks the manager by its API
			module + "internal/controller",
			module + "internal/dataapi",
			module + "internal/runner", // and executes nothing
			module + "worker",
			"go.opentelemetry.io/otel/exporters",
		}},
		"client": {"./client", []string{
			"k8s.io", // a client needs no Kubernetes
			"sigs.k8s.io",
			module + "api",
			module + "internal/controller",
			module + "internal/reporter",
			module + "internal/runner", // a client starts runs and executes none
			module + "worker",
			"go.opentelemetry.io/otel/exporters", // the program that imports it chooses how spans are sent
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, linked := range linkedPackages(t, program.packages) {
				for _, forbidden := range slices.Concat(program.never, onlyInTests) {
					if linked == forbidden || strings.HasPrefix(linked, forbidden+"/") {
						t.Errorf("%s links %s", program.packages, linked)
					}
				}
			}
		})
	}
}

// linkedPackages returns the packages that the packages of a pattern link, without tests.
func linkedPackages(t *testing.T, pattern string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", pattern)
	list.Dir = ".."
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", list, err, &stderr)
	}
	linked := strings.Fields(string(out))
	if want := path.Join(module, "internal/store"); !strings.Contains(string(out), want) {
		t.Fatalf("%v does not list %s, so it lists too little", list, want)
	}
	return linked
}
