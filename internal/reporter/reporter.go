// Package reporter writes the status of WorkflowRuns from within a worker pod. It is the
// runner's Reporter: it turns rows into status with package projection, and writes each
// without reading the object first.
//
// Most reports are JSON patches. A run that ended before its start was reported is written
// with one PUT instead, at the resource version from which its run was created: that costs
// the API server less. It refuses the PUT if the object has changed since, and a patch
// follows.
//
// A report may be lost: if it is refused for good, or the pod dies before it is sent, the
// manager repairs the object from the rows.
package reporter

import (
	"bytes"
	"context"
	"errors"
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
	// senders is how many requests are in flight at once.
	senders = 32
	// ongoingDelay is how long the report of a run that goes on is held back. If the run ends
	// or changes before that, only its newest status is sent.
	ongoingDelay = 400 * time.Millisecond
	// giveUpAfter is how long a report is retried. The manager repairs what is left, after
	// its reportTimeout, which must be longer.
	giveUpAfter = 30 * time.Second
	// sendTimeout bounds one request.
	sendTimeout = 10 * time.Second
	// serverErrors is how often a report is sent to which the API server answers that it has
	// failed. It says so to a status that it cannot decode, too, and the tries hold a sender.
	serverErrors = 3
)

// errServer is the error of a report to which the API server answered that it has failed.
var errServer = errors.New("the API server has failed")

// sendBackoff spaces out the tries of one report.
var sendBackoff = backoff.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}

// Reporter sends status reports to an API server. Make one with New, call Run once, and
// Report from any goroutine.
type Reporter struct {
	// Backend is the name of the Backend whose rows are reported. Objects of another Backend are
	// left alone, whatever a row says. Empty means not to look. Set it before Run.
	Backend string

	client    *http.Client
	base      *url.URL
	namespace string
	podName   string
	log       *slog.Logger
	// holdBack is ongoingDelay, and longer in tests. It is set before Run.
	holdBack time.Duration
	// patchesOnly is set once the API server has refused a PUT as forbidden.
	patchesOnly atomic.Bool

	mu       sync.Mutex
	pending  map[string]*pendingReport // by object uid
	ended    queue                     // reports of runs that have ended
	ongoing  queue                     // all other reports
	sending  int
	timerSet bool // a timer is set that will wake a sender
	closed   bool
	changed  *sync.Cond
}

// pendingReport is the newest unsent status of an object.
type pendingReport struct {
	object  openworkflow.ObjectRef
	status  *v1alpha1.WorkflowRunStatus // nil if it was sent
	firstAt time.Time                   // when the first status since the last request was reported
	due     time.Time                   // when it may be sent
	sending bool                        // a sender has it
	// endedEarly says that the run ended before its start was reported: most likely, the
	// object is as it was when the run was created.
	endedEarly bool
	// generationChanged is set once the object has another generation than its run was
	// created from: only the manager knows what that change means.
	generationChanged bool
}

// queue holds reports in the order in which they are due. An entry that is stale, because its
// report was sent from the other queue, is skipped.
type queue []*pendingReport

// first returns the first report that is unsent and that no sender has, or nil. It removes
// the stale entries before it.
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

// New returns a reporter for the objects of one namespace. The credentials in config need the
// right to patch the status of WorkflowRuns there, and no other. With the right to update it,
// runs that end early are written with a PUT.
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
		holdBack:  ongoingDelay,
		pending:   map[string]*pendingReport{},
	}
	r.changed = sync.NewCond(&r.mu)
	return r, nil
}

// Report queues the status of the run's object. Of several unsent reports for one object only
// the newest is sent. Runs without an object in this namespace are ignored, and so are rows that
// name an object which is not theirs: a run has its object's uid as its id.
func (r *Reporter) Report(run *openworkflow.Run, steps openworkflow.StepSummary) {
	object := run.Object()
	if object == nil || object.Namespace != r.namespace || object.UID != run.ID {
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
		entry.due = now.Add(r.holdBack)
	default:
		return // it replaces a status that is queued
	}
	r.enqueueLocked(entry)
}

// endedEarly reports whether a run has ended in its first attempt, before the report of its
// start was due.
func endedEarly(run *openworkflow.Run) bool {
	return run.Attempts == 1 && run.StartedAt != nil && run.FinishedAt != nil && run.FinishedAt.Sub(*run.StartedAt) < ongoingDelay
}

// enqueueLocked queues an object with an unsent status, unless a sender has it.
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

// Run sends reports until ctx ends. It then sends what is queued, for at most grace.
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

// next waits for an object whose report is due. It returns nil once the reporter is closed
// and its queues are empty.
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

// popDueLocked removes the first object whose report is due. If there is none, it returns how
// long until one is; 0 if nothing is queued. In a closed reporter every report is due.
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

// send sends the newest status of an object, and retries until the API server accepts or
// refuses it, or giveUpAfter has passed.
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
		if ctx.Err() != nil || age > giveUpAfter || tries >= serverErrors && errors.Is(err, errServer) {
			r.log.Warn("Could not report the status of a run; the manager will repair it", "run", entry.object.UID,
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
	} else { // reported while the last request was in flight
		r.enqueueLocked(entry)
	}
	r.changed.Broadcast()
}

// write sends one status. For a run that ended early it first tries to replace the status
// that the object has had since its creation; otherwise, and if that is refused, it patches.
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

// patch sends one status as a JSON patch. A refusal because the report is outdated or its
// object is gone is not an error: nothing is left to report.
//
// The patch tests that the object still has the generation that its run was created from, and
// sets that generation as observed. The API server does not say which test of a patch has
// failed, so a refusal without a reason is retried once without that test.
func (r *Reporter) patch(ctx context.Context, entry *pendingReport, status v1alpha1.WorkflowRunStatus) error {
	object := entry.object
	if object.Generation == 0 || entry.generationChanged {
		body, err := projection.PatchFrom(r.Backend, object.UID, status)
		if err != nil {
			return err
		}
		_, err = r.request(ctx, object, http.MethodPatch, body)
		return err
	}
	body, err := projection.PatchAt(r.Backend, object.UID, object.Generation, status)
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

// request sends a status with this method. refused says that a test of a patch has failed, or
// that a PUT was refused where a patch may still succeed.
func (r *Reporter) request(ctx context.Context, object openworkflow.ObjectRef, method string, body []byte) (refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	target := r.base.JoinPath("apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version,
		"namespaces", object.Namespace, "workflowruns", object.Name, "status")
	target.RawQuery = "fieldValidation=Ignore" // warnings would not be read
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("make the request with a status: %w", err)
	}
	contentType := projection.PatchContentType
	if method == http.MethodPut {
		contentType = projection.ContentType
	}
	request.Header.Set("Content-Type", contentType)
	// The response body is only logged: ask for the smallest one.
	request.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	response, err := r.client.Do(request)
	if err != nil {
		return false, fmt.Errorf("write the status of workflowrun %s/%s: %w", object.Namespace, object.Name, err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection is reused
	code, replaces := response.StatusCode, method == http.MethodPut
	switch {
	case code == http.StatusOK || code == http.StatusCreated:
		return false, nil
	case replaces && code == http.StatusConflict: // the object has another resource version
		return true, nil
	case replaces && code == http.StatusForbidden:
		r.patchesOnly.Store(true)
		return true, nil
	case code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge:
		r.log.Warn("The API server refused the status of a run; the manager will say so at the object", "run", object.UID,
			"object", object.Name, "answer", response.Status)
		return false, nil
	case code == http.StatusInternalServerError: // its text may quote the status
		return false, fmt.Errorf("write the status of workflowrun %s/%s: %w: %s", object.Namespace, object.Name, errServer, response.Status)
	case code == http.StatusNotFound || code == http.StatusConflict || code == http.StatusUnprocessableEntity:
		r.log.Debug("Status report was refused", "run", object.UID, "object", object.Name, "answer", string(answer))
		return code == http.StatusUnprocessableEntity && !projection.Outdated(string(answer)), nil
	default:
		return false, fmt.Errorf("write the status of workflowrun %s/%s: %s: %s",
			object.Namespace, object.Name, response.Status, answer)
	}
}
