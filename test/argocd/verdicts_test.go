package argocd

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	statesFile = "../../internal/controller/testdata/states.jsonl"
	configFile = "../../config/argocd/argocd-cm.yaml"
	// healthKey is what the keys of health checks begin with in the ConfigMap. The rest is the group,
	// an underscore and the kind.
	healthKey = "resource.customizations.health."
)

// objectState is a line of the file of states.
type objectState struct {
	Kind, State string
	Object      map[string]any
}

// states returns the objects, with numbers as the clients of both tools decode them.
func states(t *testing.T) []objectState {
	t.Helper()
	file, err := os.Open(statesFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var list []objectState
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var line struct {
			objectState
			Object json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(line.Object); err != nil {
			t.Fatal(err)
		}
		list = append(list, objectState{line.Kind, line.State, object.Object})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(list) < 100 {
		t.Fatalf("the file has %d states", len(list))
	}
	return list
}

// checks returns the health checks of the ConfigMap, as Argo CD keeps them after it has read it.
func checks(t *testing.T) lua.ResourceHealthOverrides {
	t.Helper()
	raw, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	var config corev1.ConfigMap
	if err := yaml.UnmarshalStrict(raw, &config); err != nil {
		t.Fatal(err)
	}
	overrides := lua.ResourceHealthOverrides{}
	for key, script := range config.Data {
		name, ok := strings.CutPrefix(key, healthKey)
		if !ok {
			t.Errorf("the ConfigMap has the key %s, which is no health check", key)
		}
		overrides[strings.Replace(name, "_", "/", 1)] = v1alpha1.ResourceOverride{HealthLua: script}
	}
	return overrides
}

// same are the words of Argo CD for those of kstatus. Argo CD has one more: a suspended run is
// InProgress for Flux.
var same = map[status.Status]health.HealthStatusCode{
	status.InProgressStatus:  health.HealthStatusProgressing,
	status.CurrentStatus:     health.HealthStatusHealthy,
	status.FailedStatus:      health.HealthStatusDegraded,
	status.TerminatingStatus: health.HealthStatusProgressing,
}

// Flux and Argo CD say the same of each object in each state.
func TestVerdicts_OfFluxAndArgoCDAreEqualInEachState(t *testing.T) {
	overrides := checks(t)
	kinds, verdicts := map[string]bool{}, map[status.Status]int{}
	suspended := 0
	for _, state := range states(t) {
		kinds[state.Kind] = true
		object := &unstructured.Unstructured{Object: state.Object}
		flux, err := status.Compute(object)
		if err != nil {
			t.Fatalf("%s %s: kstatus: %v", state.Kind, state.State, err)
		}
		verdicts[flux.Status]++
		argo, err := health.GetResourceHealth(object, overrides)
		if err != nil || argo == nil {
			t.Fatalf("%s %s: Argo CD says %v, error %v", state.Kind, state.State, argo, err)
		}
		want := same[flux.Status]
		if state.Kind == "WorkflowRun" && strings.HasPrefix(state.State, "Suspended") {
			suspended++
			want = health.HealthStatusSuspended
		}
		if argo.Status != want {
			t.Errorf("%s %s: Flux says %s, Argo CD %s, want %s", state.Kind, state.State, flux.Status, argo.Status, want)
		}
		if argo.Message == "" || flux.Status == status.FailedStatus && argo.Message != flux.Message {
			t.Errorf("%s %s: Flux says %q, Argo CD %q", state.Kind, state.State, flux.Message, argo.Message)
		}
		t.Logf("%-16s %-55s %-11s %s", state.Kind, state.State, flux.Status, argo.Status)
	}
	for kind := range kinds {
		if _, ok := overrides["openworkflow.dev/"+kind]; !ok {
			t.Errorf("%s has no health check for %s", configFile, kind)
		}
	}
	if len(overrides) != len(kinds) || suspended == 0 || verdicts[status.InProgressStatus] == 0 || verdicts[status.CurrentStatus] == 0 ||
		verdicts[status.FailedStatus] == 0 || verdicts[status.TerminatingStatus] != len(kinds) {
		t.Errorf("%d checks, %d kinds, %d suspended runs, verdicts %v", len(overrides), len(kinds), suspended, verdicts)
	}
}

// An object that Argo CD reads before the API server has set its default status makes progress.
func TestVerdicts_WithoutAStatusArgoCDSeesProgress(t *testing.T) {
	overrides := checks(t)
	for _, state := range states(t) {
		delete(state.Object, "status")
		if state.State == "being deleted" {
			continue
		}
		argo, err := health.GetResourceHealth(&unstructured.Unstructured{Object: state.Object}, overrides)
		if err != nil || argo.Status != health.HealthStatusProgressing {
			t.Errorf("%s: Argo CD says %v, error %v", state.Kind, argo, err)
		}
	}
}
