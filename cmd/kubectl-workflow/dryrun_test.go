package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dryrun"
)

// dryRunSetup is a world with the history, a pool that serves its workflow, and a user who may
// create Jobs.
func dryRunSetup(t *testing.T) *world {
	t.Helper()
	w := setup(t)
	w.kubeconfig = w.user("runner", append(editorRules, rbacv1.PolicyRule{
		APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create", "delete"},
	})...)
	w.history()
	w.pool("shop", "checkout")
	return w
}

func (w *world) pool(name string, workflows ...string) {
	w.t.Helper()
	p := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: name}}
	p.Spec.Template = runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"proxy","image":"p"},{"name":"worker","image":"example.test/checkout:2"}]}}`)}
	for _, workflow := range workflows {
		p.Spec.Workflows = append(p.Spec.Workflows, v1alpha1.ServedWorkflow{Name: workflow})
	}
	w.Create(p)
}

// kubelet makes the pod of the Job that a command line creates, as the Job controller and a kubelet
// do, and lets its worker come to the state. It returns the request that the worker got, once the command has
// ended.
func (w *world) kubelet(state corev1.ContainerState) (request func() dryrun.Request) {
	w.t.Helper()
	var asked dryrun.Request
	var failure error
	var task sync.WaitGroup
	task.Go(func() {
		failure = w.bePod(state, &asked)
	})
	return func() dryrun.Request {
		w.t.Helper()
		task.Wait()
		if failure != nil {
			w.t.Error(failure)
		}
		return asked
	}
}

func (w *world) bePod(state corev1.ContainerState, asked *dryrun.Request) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var jobs batchv1.JobList
	for end := time.Now().Add(time.Minute); len(jobs.Items) == 0; <-ticker.C {
		if err := cluster.Admin.List(w.t.Context(), &jobs, client.InNamespace(w.Namespace)); err != nil {
			return err
		}
		if time.Now().After(end) {
			return errors.New("no Job was created")
		}
	}
	job := &jobs.Items[0]
	for _, e := range job.Spec.Template.Spec.Containers[1].Env {
		if e.Name == "OPENWORKFLOW_DRY_RUN" {
			if err := json.Unmarshal([]byte(strings.ReplaceAll(e.Value, "$$", "$")), asked); err != nil {
				return err
			}
		}
	}
	pod := &corev1.Pod{ObjectMeta: job.Spec.Template.ObjectMeta, Spec: job.Spec.Template.Spec}
	pod.Name, pod.Namespace = job.Name+"-x", w.Namespace
	pod.Labels["batch.kubernetes.io/job-name"] = job.Name
	pod.Spec.ServiceAccountName = "" // that of the pool is the manager's to create
	if err := cluster.Admin.Create(w.t.Context(), pod); err != nil {
		return err
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "proxy", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, {Name: "worker", State: state},
	}
	return cluster.Admin.Status().Update(w.t.Context(), pod)
}

// answered is the state of a worker that has answered.
func answered(r dryrun.Result) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: string(r.Encode())}}
}

func (w *world) noJobs() {
	w.t.Helper()
	var jobs batchv1.JobList
	if err := cluster.Admin.List(w.t.Context(), &jobs, client.InNamespace(w.Namespace)); err != nil {
		w.t.Fatal(err)
	}
	for i := range jobs.Items {
		if jobs.Items[i].DeletionTimestamp == nil {
			w.t.Errorf("Job %s is left", jobs.Items[i].Name)
		}
	}
}

func TestDryRun_PrintsWhatTheWorkerSays(t *testing.T) {
	for name, test := range map[string]struct {
		args   string // {} is the run
		result dryrun.Result
		want   dryrun.Request
	}{
		"retry": {"retry {}", dryrun.Result{
			Kept: 1, LastKept: []string{"reserve"}, Next: []dryrun.Step{{Name: "charge", Kind: "function"}},
		}, dryrun.Request{LastFailed: true}},
		"changed": {"fork {} --step charge", dryrun.Result{
			Version: "2", Kept: 12, LastKept: []string{"a", "b"}, Next: []dryrun.Step{{Name: "c", Kind: "sleep"}, {Name: "d", Kind: "workflow"}}, NextMore: 3,
			NotAsked: []string{"x"}, NotAskedMore: 7, OtherKind: []string{"b"},
		}, dryrun.Request{Step: new("charge")}},
		"completes": {"rerun {}", dryrun.Result{Ended: true}, dryrun.Request{}},
		"fails": {"retry {} --children Restart --step-output charge={\"id\":\"$(x)\"}", dryrun.Result{Ended: true, ErrorName: "CardError", Kept: 2, LastKept: []string{"a", "b"}}, dryrun.Request{
			LastFailed: true, RestartChildren: true, Outputs: map[string]json.RawMessage{"charge": json.RawMessage(`{"id":"$(x)"}`)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := dryRunSetup(t)
			test.result.RunID, test.result.Workflow, test.want.RunID = runSeq(1), "checkout", runSeq(1)
			asked := w.kubelet(answered(test.result))
			got := w.run(append(strings.Fields(strings.ReplaceAll(test.args, "{}", "run/"+runSeq(1))), "--dry-run")...)
			if got.code != codeDone || got.errOut != "" {
				t.Errorf("exit code %d: %s", got.code, got.errOut)
			}
			w.golden("dryrun_"+name, got.out)
			want, _ := json.Marshal(test.want)
			if request, _ := json.Marshal(asked()); string(request) != string(want) {
				t.Errorf("the worker was asked %s, want %s", request, want)
			}
			w.noJobs()
		})
	}
}

func TestDryRun_P7_SaysWhyThereIsNone(t *testing.T) {
	for name, test := range map[string]struct {
		state corev1.ContainerState
		code  int
		want  string
	}{
		"a problem": {answered(dryrun.Result{RunID: "r", Problem: `no dry run: this image has no workflow "checkout"`}), codeError, `: no dry run: this image has no workflow "checkout"`},
		"no result": {corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Message: "boom"}}, codeError, "ended with code 3 and without a result: its image knows no dry runs"},
		"no image": {
			corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off"}}, codeTimeout,
			"the pod has not answered: ImagePullBackOff: Back-off",
		},
		"another worker": {corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, codeTimeout, "a program without a worker of this project"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dryRunSetup(t)
			asked := w.kubelet(test.state)
			timeout := "60s"
			if test.code == codeTimeout {
				timeout = "20s"
			}
			w.fails(test.code, test.want, "retry", "run/"+runSeq(1), "--dry-run", "--timeout", timeout)
			asked()
			w.noJobs()
		})
	}
}

func TestDryRun_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := dryRunSetup(t)
	id := "run/" + runSeq(1)
	w.fails(codeError, "--step-output charge: want STEP=JSON", "retry", id, "--dry-run", "--step-output", "charge")
	w.fails(codeError, `--children "Eat": use Keep or Restart`, "retry", id, "--dry-run", "--children", "Eat")
	w.fails(codeError, "--timeout 0s: give a positive duration", "rerun", id, "--dry-run", "--timeout", "0s")
	w.fails(codeError, `unknown output format "xml"`, "retry", id, "--dry-run", "-o", "xml")
	w.fails(codeError, "more than 32768: a dry run stores them in a Job", "retry", id, "--dry-run", "--step-output", fmt.Sprintf("a=%q", strings.Repeat("x", 40_000)))
	w.fails(codeNotFound, `no run "nope"`, "retry", "run/nope", "--dry-run")
	w.fails(codeNotFound, `"nope" not found`, "retry", id, "--dry-run", "--pool", "nope")
	w.pool("other")
	w.fails(codeError, `several could serve workflow "notify" (other, shop): choose one by --pool`, "rerun", "run/"+runSeq(3), "--dry-run")
	w.kubeconfig = w.user("editor2", editorRules...)
	w.fails(codeForbidden, "cannot create resource \"jobs\"", "retry", id, "--dry-run")
	w.noJobs()
}

// Programs read a dry run as an object with the run's name.
func TestDryRun_PrintsEveryFormat(t *testing.T) {
	w := dryRunSetup(t)
	for _, format := range []string{"json", "yaml", "name", "jsonpath={.status.next[*].name}"} {
		asked := w.kubelet(answered(dryrun.Result{
			RunID: runSeq(1), Workflow: "checkout", Kept: 1, LastKept: []string{"reserve"}, Next: []dryrun.Step{{Name: "charge", Kind: "function"}},
		}))
		got := w.run("retry", "run/"+runSeq(1), "--dry-run", "-o", format)
		asked()
		if got.code != codeDone || got.errOut != "" {
			t.Errorf("-o %s: exit code %d: %s", format, got.code, got.errOut)
		}
		kind, _, _ := strings.Cut(format, "=")
		w.golden("dryrun_"+kind, got.out)
		w.noJobs()
	}
}

// The verbs pass another input on to the worker.
func TestDryRun_AsksWithAnotherInput(t *testing.T) {
	w := dryRunSetup(t)
	asked := w.kubelet(answered(dryrun.Result{RunID: runSeq(1), Workflow: "checkout", Ended: true}))
	got := w.runAs(w.kubeconfig, "order: 7\n", "rerun", "run/"+runSeq(1), "--dry-run", "--input-file", "-")
	if request := asked(); got.code != codeDone || string(request.Input) != `{"order":7}` {
		t.Errorf("asked %+v: exit code %d, %s", request, got.code, got.errOut)
	}
}
