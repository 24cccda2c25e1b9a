package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// The exit codes, which scripts may rely on. The help of the root command lists them.
const (
	codeDone        = 0
	codeError       = 1
	codeNotFound    = 2
	codeForbidden   = 3
	codeUnreachable = 4
	codeTimeout     = 5
	codeFailed      = 10
	codeCanceled    = 11
)

// endError ends the plugin with an exit code. An empty message prints nothing.
type endError struct {
	code    int
	message string
}

func (e *endError) Error() string { return e.message }

// unreachableError means that the data API cannot be reached.
type unreachableError struct{ error }

func (e *unreachableError) Unwrap() error { return e.error }

func unreachable(err error) error { return &unreachableError{err} }

// ended returns the error whose exit code says how a run has ended, nil for a completed run.
func ended(state v1alpha1.RunState) error {
	switch state {
	case v1alpha1.RunFailed:
		return &endError{code: codeFailed}
	case v1alpha1.RunCanceled:
		return &endError{code: codeCanceled}
	default:
		return nil
	}
}

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	var end *endError
	var away *unreachableError
	var network *url.Error
	switch {
	case errors.As(err, &end):
		return end.code
	case apierrors.IsNotFound(err):
		return codeNotFound
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return codeForbidden
	case errors.Is(err, context.DeadlineExceeded):
		return codeTimeout
	case errors.As(err, &away), apierrors.IsServiceUnavailable(err), errors.As(err, &network):
		return codeUnreachable
	default:
		return codeError
	}
}

// explain returns an error's text, and what a user does about it.
func explain(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err.Error()
	}
	details := status.Status().Details
	if details == nil {
		details = &metav1.StatusDetails{}
	}
	switch {
	case apierrors.IsNotFound(err) && details.Group == datav1alpha1.GroupVersion.Group && details.Name != "":
		return fmt.Sprintf("there is no WorkflowRun and no run %q in this namespace: see kubectl workflow list", details.Name)
	case apierrors.IsNotFound(err) && details.Group == v1alpha1.GroupVersion.Group && details.Name == "":
		return err.Error() + "\nThe custom resources of OpenWorkflow are not installed in this cluster."
	case apierrors.IsForbidden(err) && (details.Group == datav1alpha1.GroupVersion.Group || details.Group == v1alpha1.GroupVersion.Group):
		return err.Error() + "\nThe ClusterRoles view and edit of a namespace allow it: view to see runs, edit to see payloads and to change runs."
	default:
		return err.Error()
	}
}
