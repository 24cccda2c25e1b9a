package controller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const (
	// maxCachedInput is the largest input, in bytes, that the cache keeps of a run without a row.
	// Larger ones are read from the API server at the start.
	maxCachedInput = 4 << 10
	// tenantInputs bounds the bytes of such inputs that are in work for one namespace.
	tenantInputs = 2 << 20
	// tenantForks is the number of forks that are made at once for one namespace: each reads the
	// history of its source. They share tenantInputs.
	tenantForks = 2
)

var (
	// errInputsBusy means that tenantInputs are in work.
	errInputsBusy = errors.New("other inputs are being stored")
	// errObjectGone means that the object was deleted or replaced.
	errObjectGone = errors.New("the object is gone")
)

// leftOut begins the Raw of an input that the cache has left out; its size follows. No JSON
// begins so.
const leftOut = "\x00"

// leaveOutInput returns what stands in the cache for an input of this size.
func leaveOutInput(size int) *apiextensionsv1.JSON {
	return &apiextensionsv1.JSON{Raw: []byte(leftOut + strconv.Itoa(size))}
}

// inputSize returns the size of a run's input in bytes, and whether the cache has left it out. Of a
// fork, whose values the cache always leaves out, the corrected outputs count too.
func inputSize(run *v1alpha1.WorkflowRun) (size int, isLeftOut bool) {
	if run.Spec.Input == nil {
		return 0, false
	}
	return valueSize(run.Spec.Input)
}

// valueSize returns the size of a value in bytes, and whether the cache has left it out.
func valueSize(value *apiextensionsv1.JSON) (size int, isLeftOut bool) {
	if len(value.Raw) == 0 || value.Raw[0] != leftOut[0] {
		return len(value.Raw), false
	}
	size, err := strconv.Atoi(string(value.Raw[1:]))
	return size, err == nil
}

func isLeftOutInput(run *v1alpha1.WorkflowRun) bool {
	_, leftOut := inputSize(run)
	return leftOut
}

// valuesSize returns the size in bytes of the values in a spec of which nothing was left out.
func valuesSize(spec *v1alpha1.WorkflowRunSpec) (size int) {
	if spec.Input != nil {
		size = len(spec.Input.Raw)
	}
	if spec.From != nil {
		for i := range spec.From.Outputs {
			if value := spec.From.Outputs[i].Value; value != nil {
				size += len(value.Raw)
			}
		}
	}
	return size
}

// inputLoader reads inputs that the cache has left out.
type inputLoader struct {
	live client.Reader

	mu     sync.Mutex
	inWork map[string]int // bytes, by namespace
}

// load returns the input of a run, which the caller releases when it is stored.
func (l *inputLoader) load(ctx context.Context, run *v1alpha1.WorkflowRun, size int) (input []byte, release func(), err error) {
	object, release, err := l.object(ctx, run, size)
	if err != nil || object.Spec.Input == nil {
		return nil, release, err
	}
	return object.Spec.Input.Raw, release, nil
}

// object returns the whole object of a run, whose values have about this many bytes. The caller
// releases it when they are stored, unless there is an error.
func (l *inputLoader) object(ctx context.Context, run *v1alpha1.WorkflowRun, size int) (object *v1alpha1.WorkflowRun, release func(), err error) {
	if !l.take(run.Namespace, size) {
		return nil, nil, errInputsBusy
	}
	release = func() { l.give(run.Namespace, size) }
	// At this version or a later one, which the API server has in its cache.
	object = &v1alpha1.WorkflowRun{}
	err = l.live.Get(ctx, client.ObjectKeyFromObject(run), object, &client.GetOptions{Raw: &metav1.GetOptions{ResourceVersion: run.ResourceVersion}})
	switch {
	case apierrors.IsNotFound(err), err == nil && object.UID != run.UID:
		err = errObjectGone
	case err != nil:
		err = fmt.Errorf("read the input of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	default:
		return object, release, nil
	}
	release()
	return nil, nil, err
}

// take reserves bytes. One input alone may be of any size.
func (l *inputLoader) take(namespace string, size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if used := l.inWork[namespace]; used > 0 && used+size > tenantInputs {
		return false
	}
	if l.inWork == nil {
		l.inWork = map[string]int{}
	}
	l.inWork[namespace] += size
	return true
}

func (l *inputLoader) give(namespace string, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inWork[namespace] -= size; l.inWork[namespace] == 0 {
		delete(l.inWork, namespace)
	}
}
