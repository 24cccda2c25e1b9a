// Package reporter writes the status of WorkflowRuns from within a worker pod. It
// is the runner's Reporter: it turns rows into status with package projection and
// sends each blindly, with no read before it: a run that ends soon in place of the status
// that its object has had so far, all else as a JSON patch.
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
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
)

const (
	// senders is the number of requests under way at once.
	senders = 32
	// ongoingDelay is how long a report of a run that goes on is held back: of a run that ends
	// or changes sooner, only what it came to is sent.
	ongoingDelay = 400 * time.Millisecond
	// giveUpAfter is how long a report is tried; the manager repairs what is left.
	giveUpAfter = 30 * time.Second
	// sendTimeout bounds one try.
	sendTimeout = 10 * time.Second
)

// sendBackoff spaces out the tries of one report.
var sendBackoff = backoff.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}

// Reporter sends status reports to an API server. Make one with New, call Run
// once, and Report from any goroutine.
type Reporter struct {
	client    *http.Client
	base      *url.URL
	namespace string
	podName   string
	log       *slog.Logger
	// patchesOnly is true once the API server has said that a status must not be replaced.
	patchesOnly atomic.Bool

	mu       sync.Mutex
	pending  map[string]*pendingReport // by object uid
	ended    queue                     // runs that have ended
	ongoing  queue                     // all others
	sending  int
	timerSet bool // a timer will wake a sender
	closed   bool
	changed  *sync.Cond
}

// pendingReport is the newest unsent status of an object.
type pendingReport struct {
	object  openworkflow.ObjectRef
	status  *v1alpha1.WorkflowRunStatus // nil when all is sent
	firstAt time.Time                   // when it came, or the oldest one that it replaced
	due     time.Time                   // when it may be sent
	sending bool                        // a sender has it
	// endedEarly is true when the status is that of a run that has ended before anybody would
	// have reported it: most likely the object is as it was when its run was created.
	endedEarly bool
	// generationChanged is true once the object has another generation than its run was created
	// from: only the manager knows what that means.
	generationChanged bool
}

// queue has objects in the order in which they are due. One whose report was sent
// from the other queue is passed over.
type queue []*pendingReport

// first returns the object whose turn it is, or nil.
func (q *queue) first() *pendingReport {
	for len(*q) > 0 {
		if entry := (*q)[0]; entry.status != nil && !entry.sending {
			return entry
		}
		q.pop()
	}
	return nil
}

func (q *queue) pop() {
	(*q)[0] = nil
	*q = (*q)[1:]
}

// New returns a reporter for the objects of one namespace. The config needs the
// right to patch the status of WorkflowRuns there, better to update it too, and no other.
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
		pending:   map[string]*pendingReport{},
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
	entry := r.pending[object.UID]
	if entry == nil {
		entry = &pendingReport{object: *object}
		r.pending[object.UID] = entry
	}
	now := time.Now()
	isFirst := entry.status == nil
	if isFirst {
		entry.firstAt = now
	}
	entry.status, entry.endedEarly = &status, endedEarly(run)
	switch {
	case status.State.Terminal():
		entry.due = now
	case isFirst:
		entry.due = now.Add(ongoingDelay)
	default:
		return // it takes the place of one that has a turn
	}
	r.enqueueLocked(entry)
}

// endedEarly reports whether a run has ended in its first attempt, before the report of
// its beginning was due.
func endedEarly(run *openworkflow.Run) bool {
	return run.Attempts == 1 && run.StartedAt != nil && run.FinishedAt != nil && run.FinishedAt.Sub(*run.StartedAt) < ongoingDelay
}

// enqueueLocked gives an object with something to send its turn, unless a sender has it.
func (r *Reporter) enqueueLocked(entry *pendingReport) {
	if entry.sending {
		return
	}
	if entry.status.State.Terminal() {
		r.ended = append(r.ended, entry)
	} else {
		r.ongoing = append(r.ongoing, entry)
	}
	r.changed.Signal()
}

// Run sends reports until ctx ends, then what is still in the queue, for at most
// the time of farewell.
func (r *Reporter) Run(ctx context.Context, grace time.Duration) {
	sendCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, stop)
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

// next waits for an object whose report is due; nil means that the reporter is
// closed and its queues are empty.
func (r *Reporter) next() *pendingReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		entry, wait := r.popDueLocked()
		if entry != nil {
			entry.sending = true
			r.sending++
			return entry
		}
		if r.closed && r.sending == 0 {
			r.changed.Broadcast()
			return nil
		}
		if wait > 0 && !r.timerSet {
			r.timerSet = true
			time.AfterFunc(wait, func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.timerSet = false
				r.changed.Signal()
			})
		}
		r.changed.Wait()
	}
}

// popDueLocked removes the object whose turn it is, or says for how long there is none: 0
// when nothing is in the queues. A reporter that closes sends at once.
func (r *Reporter) popDueLocked() (entry *pendingReport, wait time.Duration) {
	endedFirst, ongoingFirst := r.ended.first(), r.ongoing.first()
	if endedFirst != nil && (ongoingFirst == nil || !ongoingFirst.due.Before(endedFirst.due)) {
		r.ended.pop()
		return endedFirst, 0
	}
	if ongoingFirst == nil {
		return nil, 0
	}
	if wait = time.Until(ongoingFirst.due); wait > 0 && !r.closed {
		return nil, wait
	}
	r.ongoing.pop()
	return ongoingFirst, 0
}

// send sends the newest status of an object, again and again until the API server
// has taken or refused it, or it is too old.
func (r *Reporter) send(ctx context.Context, entry *pendingReport) {
	for tries := 1; ; tries++ {
		r.mu.Lock()
		status, endedEarly, age := entry.status, entry.endedEarly, time.Since(entry.firstAt)
		entry.status, entry.endedEarly = nil, false
		r.mu.Unlock()
		err := r.write(ctx, entry, *status, endedEarly)
		if err == nil {
			break
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
		_ = sendBackoff.Wait(ctx, tries) // once ctx has ended, the next try is the last
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entry.sending = false
	r.sending--
	if entry.status == nil {
		delete(r.pending, entry.object.UID)
	} else { // it came after the last look
		r.enqueueLocked(entry)
	}
	r.changed.Broadcast()
}

// write sends one status: as a patch, or soon, in place of the one that the object has
// had from its creation on, if it still has.
func (r *Reporter) write(ctx context.Context, entry *pendingReport, status v1alpha1.WorkflowRunStatus, endedEarly bool) error {
	if endedEarly && !entry.generationChanged && !r.patchesOnly.Load() {
		body, ok, err := projection.Replace(&entry.object, status)
		if err != nil {
			return err
		}
		if ok {
			if refused, err := r.request(ctx, entry.object, http.MethodPut, body); err != nil || !refused {
				return err
			}
		}
	}
	return r.patch(ctx, entry, status)
}

// patch sends one status. A refusal that says that the report is outdated, or its
// object gone, is not an error: there is nothing left to report.
//
// The status says that the generation which the run was created from is observed, as
// long as the object has that one. The API server does not say which test of a patch
// has failed, so a refusal without a reason is tried once more without it.
func (r *Reporter) patch(ctx context.Context, entry *pendingReport, status v1alpha1.WorkflowRunStatus) error {
	object := entry.object
	if object.Generation == 0 || entry.generationChanged {
		body, err := projection.Patch(object.UID, status)
		if err != nil {
			return err
		}
		_, err = r.request(ctx, object, http.MethodPatch, body)
		return err
	}
	body, err := projection.PatchAt(object.UID, object.Generation, status)
	if err != nil {
		return err
	}
	refused, err := r.request(ctx, object, http.MethodPatch, body)
	if err == nil && refused {
		entry.generationChanged = true
		return r.patch(ctx, entry, status)
	}
	return err
}

// request sends a status with this method, and reports whether a test in a patch has
// failed, or whether a status was not replaced that a patch might still change.
func (r *Reporter) request(ctx context.Context, object openworkflow.ObjectRef, method string, body []byte) (refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	target := r.base.JoinPath("apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version,
		"namespaces", object.Namespace, "workflowruns", object.Name, "status")
	target.RawQuery = "fieldValidation=Ignore" // nobody reads warnings
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("make the request with a status: %w", err)
	}
	contentType := projection.PatchContentType
	if method == http.MethodPut {
		contentType = projection.ContentType
	}
	request.Header.Set("Content-Type", contentType)
	// The answer is not read: ask for the smallest there is.
	request.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	response, err := r.client.Do(request)
	if err != nil {
		return false, fmt.Errorf("write the status of workflowrun %s/%s: %w", object.Namespace, object.Name, err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection is used again
	code, replaces := response.StatusCode, method == http.MethodPut
	switch {
	case code == http.StatusOK || code == http.StatusCreated:
		return false, nil
	case replaces && code == http.StatusConflict: // the object has another version
		return true, nil
	case replaces && code == http.StatusForbidden:
		r.patchesOnly.Store(true)
		return true, nil
	case code == http.StatusNotFound || code == http.StatusConflict || code == http.StatusUnprocessableEntity:
		r.log.Debug("Status report was refused", "run", object.UID, "object", object.Name, "answer", string(answer))
		return code == http.StatusUnprocessableEntity && !projection.Outdated(string(answer)), nil
	default:
		return false, fmt.Errorf("write the status of workflowrun %s/%s: %s: %s",
			object.Namespace, object.Name, response.Status, answer)
	}
}
