package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestExitCode_SaysWhatHasFailed(t *testing.T) {
	_, missing := os.Open("/nope/nowhere")
	resource := schema.GroupResource{Resource: "runs"}
	for name, test := range map[string]struct {
		err  error
		code int
	}{
		"a missing file":     {missing, codeError}, // its error has the methods of one of the network
		"a file in the way":  {&os.PathError{Op: "open", Path: "x", Err: os.ErrPermission}, codeError},
		"no such run":        {apierrors.NewNotFound(resource, "x"), codeNotFound},
		"no right":           {apierrors.NewForbidden(resource, "x", nil), codeForbidden},
		"a refused call":     {&url.Error{Op: "Get", URL: "https://x", Err: missing}, codeUnreachable},
		"no manager":         {unreachable(missing), codeUnreachable},
		"the end of a wait":  {context.DeadlineExceeded, codeTimeout},
		"a run that failed":  {ended("Failed"), codeFailed},
		"a run that is over": {ended("Canceled"), codeCanceled},
	} {
		if code := exitCode(fmt.Errorf("do it: %w", test.err)); code != test.code {
			t.Errorf("%s: exit code %d, want %d", name, code, test.code)
		}
	}
}
