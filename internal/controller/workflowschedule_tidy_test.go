package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// failedPatches is a manager's client that changes no run's spec, and counts how often it was to.
type failedPatches struct{ n atomic.Int64 }

func (f *failedPatches) newClient(config *rest.Config, o client.Options) (client.Client, error) {
	inner, err := client.NewWithWatch(config, o)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(inner, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if _, isRun := o.(*metav1.PartialObjectMetadata); isRun {
				f.n.Add(1)
				return errors.New("a webhook refuses it")
			}
			return c.Patch(ctx, o, p, opts...)
		},
	}), nil
}

// TestSchedule_P6_SlotsDoNotDependOnTheHistory: a run that cannot be expired delays neither the slots that
// are due nor a backfill.
func TestSchedule_P6_SlotsDoNotDependOnTheHistory(t *testing.T) {
	var failed failedPatches
	w := newManagedWorld(t, fast(), func(o *managerOptions) { o.newClient = failed.newClient })
	s := newSchedule("minutely", func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.SuccessfulRunsHistoryLimit = "Forbid", new(int32(0)) })
	w.create(s)
	slot, first := w.awaitOpenRun(s, time.Time{})
	modify(w, first, func(r *run) { r.Spec.Cancel = new(true) })
	w.awaitOpenRun(s, slot) // nothing happens from now on but that slots are due, and skipped
	began := failed.n.Load()
	eventually(t, func() error {
		if n := failed.n.Load() - began; n < 60 {
			return fmt.Errorf("it was tried %d times to expire the run", n)
		}
		return nil
	})
	w.awaitDecided(s, fetch(w, s).Status.DecidedUntil.Add(10*time.Minute))
	if message := w.awaitEvent(s.Name, v1alpha1.ReasonTidyFailed); message != "expire run "+first.Name+", which is beyond the history limit: a webhook refuses it" {
		t.Errorf("the event says %q", message)
	}
	modify(w, s, func(s *wfs) {
		s.Spec.Backfills = []v1alpha1.Backfill{{Name: "past", StartAt: hour(0), EndAt: &metav1.Time{Time: hour(0).Add(2 * time.Minute)}}}
	})
	w.awaitSchedule(s, func(s *wfs) error {
		if b := s.Status.Backfills; len(b) == 0 || len(b[0].Active) < 3 {
			return errors.New("the backfill has not started")
		}
		return nil
	})
	if reason := conditionReason(s.Status.Conditions); reason != v1alpha1.ReasonActive || !strings.HasPrefix(s.Status.Backfills[0].Active[0], "minutely-20200101-000000-") {
		t.Errorf("the reason is %s, status is %+v", reason, s.Status)
	}
}
