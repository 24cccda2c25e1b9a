package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// refuseStatusOf returns a client for which the API server refuses the status of an object.
func refuseStatusOf(name string) client.NewClientFunc {
	return func(config *rest.Config, options client.Options) (client.Client, error) {
		inner, err := client.NewWithWatch(config, options)
		if err != nil {
			return nil, err
		}
		return interceptor.NewClient(inner, interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if o.GetName() == name {
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
	const others = 20
	frozen := newTestRun("frozen")
	runs := []*v1alpha1.WorkflowRun{frozen}
	for i := range others {
		runs = append(runs, newTestRun(fmt.Sprintf("order-%d", i)))
	}
	for _, run := range runs {
		w.create(run)
	}
	for _, run := range runs {
		w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	}
	m.halt()
	m = w.start(func(o *managerOptions) { o.newClient = refuseStatusOf("frozen") })
	for range 3 { // so that later sweeps meet the refused object first
		execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET updated_at = now() + interval '1 ms'`)
	}
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET status = 'completed', output = '1', attempts = 1,
		available_at = NULL, started_at = now(), finished_at = now(), updated_at = now()`)
	eventuallyWithin(t, 8*time.Second, func() error {
		for _, run := range runs[1:] {
			if fetch(w, run).Status.State != v1alpha1.RunCompleted {
				return fmt.Errorf("%s is not shown", run.Name)
			}
		}
		return nil
	})
	if n := strings.Count(m.logs.String(), "The API server refused a status"); n != 1 {
		t.Errorf("the refusal was logged %d times", n)
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
	if message := w.awaitPool(pool, v1alpha1.ReasonApplyFailed); !strings.Contains(message, "exceeded quota: none") {
		t.Errorf("message is %q", message)
	}
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
