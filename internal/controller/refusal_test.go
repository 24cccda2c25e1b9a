package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

// refuseStatusOf returns a client for which the API server refuses the status of an object, and
// counts how often it does.
func refuseStatusOf(name string, count *atomic.Int64) client.NewClientFunc {
	return func(config *rest.Config, options client.Options) (client.Client, error) {
		inner, err := client.NewWithWatch(config, options)
		if err != nil {
			return nil, err
		}
		return interceptor.NewClient(inner, interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if o.GetName() == name {
					count.Add(1)
					return apierrors.NewInternalError(errors.New("a number beyond float64"))
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		}), nil
	}
}

func TestRun_P9_ARefusedStatusDelaysNoOther(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.backend()
	const others = 60
	var tries atomic.Int64
	frozen := newTestRun("frozen")
	runs := []*v1alpha1.WorkflowRun{frozen}
	for i := range others {
		runs = append(runs, newTestRun(fmt.Sprintf("order-%d", i)))
	}
	for _, run := range runs {
		w.create(run)
	}
	for _, run := range runs {
		w.awaitShown(run)
	}
	m.halt()
	m = w.start(func(o *managerOptions) { o.newClient = refuseStatusOf("frozen", &tries) })
	begin := time.Now()
	for range 3 { // so that later sweeps meet the refused object first
		execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET updated_at = now() + interval '1 ms'`)
	}
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET status = 'completed', output = '1', attempts = 1,
		available_at = NULL, started_at = now(), finished_at = now(), updated_at = now()`)
	eventually(t, func() error {
		for _, run := range runs[1:] {
			if fetch(w, run).Status.State != v1alpha1.RunCompleted {
				return fmt.Errorf("%s is not shown", run.Name)
			}
		}
		return nil
	})
	w.awaitEvent(frozen.Name, v1alpha1.ReasonStatusRefused)
	eventually(t, func() error { // which status of the object is refused first depends on when its row is read
		if n := strings.Count(m.logs.String(), "The API server refused a status"); n != 1 {
			return fmt.Errorf("the refusals were logged %d times", n)
		}
		return nil
	})
	if n, most := tries.Load(), int64(2+time.Since(begin)/refusalBackoff.First); n > most { // its two states, and what is due again
		t.Errorf("the refused status was sent %d times, want %d at most", n, most)
	}
}

// awaitShown waits until an object shows its row.
func (w *world) awaitShown(run *v1alpha1.WorkflowRun) {
	w.t.Helper()
	w.awaitRun(run, func(run *v1alpha1.WorkflowRun) error {
		if run.Status.RunID == "" {
			return fmt.Errorf("%s shows no row", run.Name)
		}
		return nil
	})
}

// completed is the SQL that ends a run, with this output.
func completed(output string) string {
	return fmt.Sprintf(`status = 'completed', output = '%s', available_at = NULL, started_at = now(), finished_at = now()`, output)
}

// Anybody who may write to the tables may write any value. What a status cannot hold is left out.
func TestRun_P7_ShowsWhateverItsRowSays(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.backend()
	tests := map[string]struct {
		set   string
		state v1alpha1.RunState
		check func(*v1alpha1.WorkflowRunStatus) bool
	}{
		"key":      {completed(`{"N":` + strings.Repeat("7", 617) + `}`), v1alpha1.RunCompleted, truncated},
		"digits":   {completed(`[12345678901234567890]`), v1alpha1.RunCompleted, truncated},
		"growing":  {completed(`"` + strings.Repeat("<", 2000) + `"`), v1alpha1.RunCompleted, truncated},
		"fraction": {completed(`[0.1, 1.50, 1e21]`), v1alpha1.RunCompleted, shows(`[0.1,1.5,1e+21]`)},
		"nested":   {completed(strings.Repeat("[", 900) + strings.Repeat("]", 900)), v1alpha1.RunCompleted, shows(strings.Repeat("[", 900) + strings.Repeat("]", 900))},
		"null":     {completed(`null`), v1alpha1.RunCompleted, func(s *v1alpha1.WorkflowRunStatus) bool { return s.Output == nil && s.OutputTruncated == nil }},
		"year-12000": {`status = 'running', worker_id = NULL, available_at = '12000-01-01', started_at = now()`, v1alpha1.RunWaiting,
			func(s *v1alpha1.WorkflowRunStatus) bool { return strings.Contains(s.Message, "9999") }},
		"bc": {`status = 'failed', error = '{"message":"\u0007"}', available_at = NULL, finished_at = '4713-01-01 BC'`, v1alpha1.RunFailed,
			func(s *v1alpha1.WorkflowRunStatus) bool { return s.Message == "\a" }},
		"negative": {`status = 'failed', error = ('{"name":"' || repeat('\u0001', 2000) || '"}')::jsonb, attempts = -7, available_at = NULL, finished_at = 'infinity'`, v1alpha1.RunFailed,
			func(s *v1alpha1.WorkflowRunStatus) bool { return *s.Attempts == 0 && len(s.Error.Name) < 253 }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := newTestRun(name)
			w.create(run)
			w.awaitShown(run)
			execute(t, w.URL, fmt.Sprintf(`UPDATE openworkflow.workflow_runs SET updated_at = now(), %s WHERE id = '%s'`, test.set, run.UID))
			w.awaitRun(run, func(run *v1alpha1.WorkflowRun) error {
				if run.Status.State != test.state || !test.check(&run.Status) {
					return fmt.Errorf("the status is %+v", run.Status)
				}
				return nil
			})
			if run.Status.Corrections != nil {
				t.Errorf("the status that the row has was corrected %d times", *run.Status.Corrections)
			}
		})
	}
	if strings.Contains(m.logs.String(), "The API server refused a status") {
		t.Error("a status was refused")
	}
}

func truncated(status *v1alpha1.WorkflowRunStatus) bool {
	return status.Output == nil && status.OutputTruncated != nil && *status.OutputTruncated
}

// shows returns a check that a status shows this output.
func shows(output string) func(*v1alpha1.WorkflowRunStatus) bool {
	return func(status *v1alpha1.WorkflowRunStatus) bool {
		return status.OutputTruncated == nil && status.Output != nil && normalJSON(status.Output.Raw) == normalJSON([]byte(output))
	}
}

func TestPool_P7_ShowsWhyItsDeploymentIsRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	none := corev1.ResourceList{"count/deployments.apps": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	w.create(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none} // no controller counts here
	if err := w.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	pool := newPool("shop")
	w.create(pool)
	eventually(t, func() error { // before the API server knows the quota's status, it refuses with another text
		if message := w.awaitPool(pool, v1alpha1.ReasonApplyFailed); !strings.Contains(message, "exceeded quota: none") {
			return fmt.Errorf("message is %q", message)
		}
		return nil
	})
	if err := w.Delete(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	w.awaitPool(pool, v1alpha1.ReasonRollingOut)
}

func TestPlanPoolStatus_P7_AChangeThatIsNotAppliedIsNotReady(t *testing.T) {
	t.Parallel()
	pool := newPool("shop")
	complete := &appsv1.Deployment{Status: appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}}
	seen := poolSeen{Pool: pool, Backend: backend.State{Known: true, Ready: true}, Deployment: complete, Refused: "denied by a webhook", Now: noon}
	if got := notReadyReason(planPoolStatus(seen).Conditions); got != v1alpha1.ReasonApplyFailed {
		t.Errorf("reason is %q", got)
	}
	seen.Refused = ""
	if got := notReadyReason(planPoolStatus(seen).Conditions); got != "" {
		t.Errorf("reason is %q once it is applied", got)
	}
}
