// Package reporter writes the status of WorkflowRuns from within a worker pod. It
// is the runner's Reporter: it turns rows into status with package projection and
// sends one blind JSON patch each, with no read before it.
//
// A report is a courtesy: when it fails for good, or the pod dies before it is
// sent, the manager repairs the object from the rows.
package reporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
)

const (
	// senders is the number of patches under way at once.
	senders = 8
	// giveUpAfter is how long a report is tried; the manager repairs what is left.
	giveUpAfter = 30 * time.Second
	// sendTimeout bounds one try.
	sendTimeout = 10 * time.Second
)

// Reporter sends status reports to an API server. Make one with New, call Run
// once, and Report from any goroutine.
type Reporter struct {
	client    *http.Client
	base      *url.URL
	namespace string
	podName   string
	log       *slog.Logger

	mu      sync.Mutex
	latest  map[string]*report // by object uid
	queue   []string           // uids with something to send, oldest first
	sending int
	changed *sync.Cond
	closed  bool
}

// report is the newest unsent status of an object.
type report struct {
	object openworkflow.ObjectRef
	status *v1alpha1.WorkflowRunStatus // nil when all is sent
	since  time.Time
	busy   bool // a sender has it
}

// New returns a reporter for the objects of one namespace. The config needs the
// right to patch the status of WorkflowRuns there, and no other.
func New(config *rest.Config, namespace, podName string, log *slog.Logger) (*Reporter, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "openworkflow-worker"
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for the API server: %w", err)
	}
	host := config.Host
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	base, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("parse the API server's address: %w", err)
	}
	r := &Reporter{
		client:    client,
		base:      base,
		namespace: namespace,
		podName:   podName,
		log:       log,
		latest:    map[string]*report{},
	}
	r.changed = sync.NewCond(&r.mu)
	return r, nil
}

// Report puts the status of the run's object in the queue. Of reports that wait
// for the same object only the newest is sent. Runs without an object in this
// namespace are passed over.
func (r *Reporter) Report(run *openworkflow.Run, steps openworkflow.StepSummary) {
	object := run.Object()
	if object == nil || object.Namespace != r.namespace {
		return
	}
	status := projection.Status(run, steps, r.podName)
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := r.latest[object.UID]
	if entry == nil {
		entry = &report{object: *object}
		r.latest[object.UID] = entry
	}
	if entry.status == nil {
		entry.since = time.Now()
		if !entry.busy {
			r.queue = append(r.queue, object.UID)
		}
	}
	entry.status = &status
	r.changed.Signal()
}

// Run sends reports until ctx ends, then what is still in the queue, for at most
// the time of farewell.
func (r *Reporter) Run(ctx context.Context, farewell time.Duration) {
	sendCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(farewell, stop)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.closed = true
		r.changed.Broadcast()
	})()
	var tasks sync.WaitGroup
	for range senders {
		tasks.Go(func() {
			for entry := r.next(); entry != nil; entry = r.next() {
				r.send(sendCtx, entry)
			}
		})
	}
	tasks.Wait()
}

// next waits for an object with something to send; nil means that the reporter is
// closed and its queue empty.
func (r *Reporter) next() *report {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 {
		if r.closed && r.sending == 0 {
			r.changed.Broadcast()
			return nil
		}
		r.changed.Wait()
	}
	entry := r.latest[r.queue[0]]
	r.queue = r.queue[1:]
	entry.busy = true
	r.sending++
	return entry
}

// send sends the newest status of an object, again and again until the API server
// has taken or refused it, or it is too old.
func (r *Reporter) send(ctx context.Context, entry *report) {
	const firstDelay, lastDelay = 100 * time.Millisecond, 5 * time.Second
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		r.mu.Lock()
		status, age := entry.status, time.Since(entry.since)
		entry.status = nil
		r.mu.Unlock()
		if status == nil {
			break
		}
		err := r.patch(ctx, entry.object, *status)
		if err == nil {
			delay = firstDelay
			continue
		}
		if ctx.Err() != nil || age > giveUpAfter {
			r.log.Warn("Could not report the status of a run; the manager will", "run", entry.object.UID,
				"object", entry.object.Name, "error", err)
			break
		}
		r.mu.Lock()
		if entry.status == nil {
			entry.status = status
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(delay/2 + rand.N(delay/2)):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entry.busy = false
	r.sending--
	if entry.status == nil {
		delete(r.latest, entry.object.UID)
	} else { // it came after the last look
		r.queue = append(r.queue, entry.object.UID)
	}
	r.changed.Broadcast()
}

// patch sends one status. A refusal that says that the report is outdated, or its
// object gone, is not an error: there is nothing left to report.
func (r *Reporter) patch(ctx context.Context, object openworkflow.ObjectRef, status v1alpha1.WorkflowRunStatus) error {
	body, err := projection.Patch(object.UID, status)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	target := r.base.JoinPath("apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version,
		"namespaces", object.Namespace, "workflowruns", object.Name, "status")
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, target.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the status patch: %w", err)
	}
	request.Header.Set("Content-Type", projection.PatchContentType)
	// The answer is not read: ask for the smallest there is.
	request.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	response, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("patch the status of workflowrun %s/%s: %w", object.Namespace, object.Name, err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection is used again
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return nil
	case http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		r.log.Debug("Status report was outdated", "run", object.UID, "object", object.Name, "answer", string(answer))
		return nil
	default:
		return fmt.Errorf("patch the status of workflowrun %s/%s: %s: %s",
			object.Namespace, object.Name, response.Status, answer)
	}
}
