package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// refusalBackoff spaces out the writes of a status that the API server has refused.
var refusalBackoff = backoff.Policy{First: 10 * time.Second, Max: 10 * time.Minute}

// forgetRefusalAfter is how long after its next try was due a refusal is forgotten: its object was
// deleted, or is right without a write.
const forgetRefusalAfter = 10 * time.Minute

// refusals has the objects whose status the API server has refused. Each is tried again by itself,
// at growing intervals, so that it delays no other. A status with another state is tried at once.
// The zero value is empty.
type refusals struct {
	mu      sync.Mutex
	objects map[types.UID]refusal
}

type refusal struct {
	state v1alpha1.RunState
	tries int
	next  time.Time
}

// wait returns how long not to write a status with this state.
func (r *refusals) wait(uid types.UID, state v1alpha1.RunState) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if refused, ok := r.objects[uid]; ok && refused.state == state {
		return max(time.Until(refused.next), 0)
	}
	return 0
}

// retryIn returns how long until an object whose status was refused is due again, 0 for others.
func (r *refusals) retryIn(uid types.UID) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if refused, ok := r.objects[uid]; ok {
		return max(time.Until(refused.next), time.Millisecond)
	}
	return 0
}

// add remembers that a status was refused, and reports whether it is the first of this object.
func (r *refusals) add(uid types.UID, state v1alpha1.RunState) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tries := r.objects[uid].tries + 1
	if r.objects == nil {
		r.objects = map[types.UID]refusal{}
	}
	r.objects[uid] = refusal{state: state, tries: tries, next: time.Now().Add(refusalBackoff.Delay(tries))}
	return tries == 1
}

// remove forgets an object whose status was written, or that is gone.
func (r *refusals) remove(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.objects, uid)
}

// prune forgets objects that nobody has tried for long.
func (r *refusals) prune() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.objects, func(_ types.UID, refused refusal) bool { return time.Since(refused.next) > forgetRefusalAfter })
}

// refuses reports whether an error is the API server's refusal of one object's status, and no
// trouble that it has with all.
func refuses(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	case http.StatusInternalServerError: // also for a JSON patch with a number that is no float64
		return !strings.Contains(err.Error(), "etcdserver")
	default:
		return false
	}
}

// refusalText describes a refusal without the values that it is about, which may be a payload.
func refusalText(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return "no answer"
	}
	answer := status.Status()
	var fields []string
	if answer.Details != nil {
		for _, cause := range answer.Details.Causes {
			if cause.Field != "" && cause.Field != "<nil>" {
				fields = append(fields, cause.Field)
			}
		}
	}
	text := fmt.Sprintf("%d %s", answer.Code, answer.Reason)
	if len(fields) > 0 {
		text += ": " + strings.Join(openworkflow.FirstOf(fields, 4), ", ")
	}
	return text
}

// refuse remembers that the API server has refused the status of an object, and says so once, in
// the log and in an event.
func (w *runStatusWriter) refuse(ctx context.Context, run *v1alpha1.WorkflowRun, state v1alpha1.RunState, err error) writeOutcome {
	if w.refused.add(run.UID, state) {
		text := refusalText(err)
		ctrl.LoggerFrom(ctx).Info("The API server refused a status", "namespace", run.Namespace, "name", run.Name, "state", state, "answer", text)
		if message := run.Unreadable.SpecMessage(); message != "" { // rules about such a spec may refuse any write
			w.events.Eventf(run, nil, eventType(false), v1alpha1.ReasonUnreadable, "Report", "%s", message)
			return statusRefused
		}
		w.events.Eventf(run, nil, eventType(false), v1alpha1.ReasonStatusRefused, "Report",
			"The API server refused to show that run %s is %s (%s); the database is right, and the status is tried again at growing intervals", rowID(run), state, text)
	}
	return statusRefused
}

// rowID returns the id of the row that an object shows, or would show.
func rowID(run *v1alpha1.WorkflowRun) string {
	if run.Status.RunID != "" {
		return run.Status.RunID
	}
	return string(run.UID)
}
