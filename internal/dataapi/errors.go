package dataapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

// resource is what errors name.
var resource = schema.GroupResource{Group: datav1alpha1.GroupVersion.Group, Resource: "runs"}

// retryAfter is the number of seconds after which a client should repeat a call that a
// database has failed.
const retryAfter = 2

// unavailable is the answer for a database that cannot be opened. Its class is on the Backend;
// the text may name an address, so it is only logged.
func unavailable(object *v1alpha1.Backend, err error) error {
	ctrl.Log.WithName("data-api").V(1).Info("Could not open a database", "namespace", object.Namespace, "backend", object.Name, "error", err.Error())
	return apierrors.NewServiceUnavailable(fmt.Sprintf("the database of Backend %q cannot be used now: its Ready condition says why", object.Name))
}

// tooLarge is the answer for values that are too long to be read. It is about them, not about the
// database, and a client that repeats the call gets it again.
func tooLarge(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusRequestEntityTooLarge, Reason: metav1.StatusReasonRequestEntityTooLarge, Message: message,
	}}
}

// answer turns an error of a database into one of the API, which names no address.
func answer(ctx context.Context, db *database, err error) error {
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
		return err
	case ctx.Err() != nil:
		return apierrors.NewTimeoutError("the request was given up", retryAfter)
	case store.StatementTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(fmt.Sprintf("the database of Backend %q did not answer within %v", db.backend, readTimeout), retryAfter)
	case errors.Is(err, store.ErrInvalidJSON), errors.Is(err, store.ErrTooLarge):
		return apierrors.NewBadRequest("a value cannot be stored: " + err.Error())
	case errors.Is(err, store.ErrPayloadTooLarge):
		return tooLarge(err.Error() + " by the data API: read them in the database")
	case errors.Is(err, store.ErrUnexpectedAnswer):
		ctrl.LoggerFrom(ctx).Info("A statement of the data API failed", "backend", db.backend, "error", err.Error())
		return tooLarge(fmt.Sprintf("the database of Backend %q sent more than an answer may have: 16 MiB, and 4 MiB a row", db.backend))
	case errors.Is(err, store.ErrArchive):
		return apierrors.NewInternalError(err)
	case errors.Is(err, store.ErrLocked):
		return apierrors.NewConflict(resource, "", errors.New("an open transaction holds the row: try again"))
	default:
		ctrl.LoggerFrom(ctx).Info("A statement of the data API failed", "backend", db.backend, "error", err.Error())
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the database of Backend %q failed: its Ready condition says why", db.backend))
	}
}
