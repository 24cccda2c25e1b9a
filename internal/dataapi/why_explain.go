package dataapi

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Bounds of what an answer shows.
const (
	maxWhyName      = 128 // bytes of a name within a sentence
	maxWhyError     = 512 // bytes of the text of an error
	maxWhyPools     = 32
	maxPoolDefs     = 32
	maxPoolsInWords = 6
)

// whySeen is what an answer is made from.
type whySeen struct {
	*store.WhyView
	// fleet is the pools and workers of the run's Backend.
	fleet *fleet.Fleet
	// ahead counts the runnable runs that are claimed before this one, if it is runnable.
	ahead int
	// object is the name of the WorkflowRun that the run mirrors, and manager the field manager
	// that has set its spec.suspend. Both may be empty.
	object, manager string
	// errors says that the caller may read the texts of errors.
	errors bool
	// child is the answer for the first child that the run waits for, and childID its id.
	child   *datav1alpha1.RunWhy
	childID string
}

// answer is the sentence, and what belongs to it.
type whyAnswer struct {
	reason, message, next string
	since, until          *time.Time
}

// explainRun says why a run is in its state, as a pure function.
func explainRun(seen whySeen) whyAnswer {
	run := &seen.Run
	hold := store.HoldOf(run, seen.Now, seen.fleet.ServedKeys())
	switch hold {
	case store.HoldEnded:
		return seen.ended()
	case store.HoldSuspended:
		return seen.suspended()
	case store.HoldDeadline:
		return whyAnswer{v1alpha1.ReasonDeadlineExceeded, fmt.Sprintf("its deadline %s has passed, so it fails within seconds", stamp(run.DeadlineAt)),
			"nothing", run.DeadlineAt, nil}
	case store.HoldNeverDue:
		return whyAnswer{datav1alpha1.WhyNeverDue, "its row has no time at which it is due, so no worker claims it" + seen.waitingIn(),
			"nothing, if what it waits for comes; else cancel it", &run.UpdatedAt, nil}
	case store.HoldLeased:
		return seen.executing()
	case store.HoldNotDue:
		return seen.notDue()
	case store.HoldUnserved:
		return seen.unserved(run.AvailableAt)
	case store.NotHeld:
	}
	return seen.queued()
}

func (s *whySeen) ended() whyAnswer {
	run := &s.Run
	at := stamp(run.FinishedAt)
	failure := openworkflow.DecodeError(run.Error)
	answer := whyAnswer{since: run.FinishedAt}
	switch {
	case run.Status == openworkflow.RunCompleted, run.Status == openworkflow.RunSucceeded:
		answer.reason, answer.message = v1alpha1.ReasonCompleted, "completed at "+at
	case run.Status == openworkflow.RunCanceled:
		answer.reason, answer.message = v1alpha1.ReasonCanceled, "canceled at "+at
		answer.next = "nothing; if it was canceled by mistake: " + s.command("retry")
	case run.Status != openworkflow.RunFailed:
		answer.reason, answer.message = v1alpha1.ReasonPending, fmt.Sprintf("its status is %q, which no worker knows", short(string(run.Status)))
		answer.next, answer.since = "find out who has written the row", &run.UpdatedAt
	case failure.Message == openworkflow.DeadlineMessage:
		answer.reason, answer.message = v1alpha1.ReasonDeadlineExceeded, fmt.Sprintf("failed at %s, as it had not ended before its deadline %s", at, stamp(run.DeadlineAt))
		answer.next = "retry it, which sets no deadline: " + s.command("retry")
	case failure.Name == openworkflow.WorkerDeathsName:
		step := short(openworkflow.SuspectedStep(s.Newest))
		answer.reason, answer.message = v1alpha1.ReasonWorkerDeathsExceeded, fmt.Sprintf("failed at %s: %s", at, openworkflow.DescribeDeaths(step, run.Deaths))
		answer.next = "look at the message of its WorkerPool, correct the code or its memory limit, and retry it: " + s.command("retry")
	default:
		answer.reason, answer.message = v1alpha1.ReasonWorkflowFailed, fmt.Sprintf("failed at %s with %s", at, s.errorText(failure))
		answer.next = "correct the cause, and retry it: " + s.command("retry")
	}
	if run.SupersededBy != nil {
		successor := short(*run.SupersededBy)
		answer.message += fmt.Sprintf("; run %s was forked from it", successor)
		answer.next = "nothing here; see the run that was forked from it: " + command("why", "run/"+successor)
	}
	return answer
}

// command is what a user of kubectl types for the run. The name of its object is enough, if it has one.
func (s *whySeen) command(verb string) string {
	if s.object != "" {
		return command(verb, s.object)
	}
	return command(verb, "run/"+s.Run.ID)
}

// command writes a command line. Ids of runs are other people's input: one that is not plain is left out.
func command(verb, run string) string {
	if !isPlain(run) {
		run = "RUN"
	}
	return "kubectl workflow " + verb + " " + run
}

// isPlain says that a shell reads a text as one word and as nothing else, and that it is short enough to be
// shown.
func isPlain(text string) bool {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._/", r)
	}
	return text != "" && text[0] != '-' && len(text) <= maxWhyName && !strings.ContainsFunc(text, odd)
}

func (s *whySeen) suspended() whyAnswer {
	run := &s.Run
	by, next := "", "resume it: "+s.command("resume")
	if s.object != "" {
		by = fmt.Sprintf(" by spec.suspend of WorkflowRun %q", s.object)
		next = "set spec.suspend of the WorkflowRun to false where it was set, or: " + s.command("resume")
		if s.manager != "" {
			by += fmt.Sprintf(", which %q has set", short(s.manager))
		}
	}
	if run.Status == openworkflow.RunRunning && run.WorkerID != nil && run.AvailableAt != nil && run.AvailableAt.After(s.Now) {
		return whyAnswer{datav1alpha1.WhySuspending, fmt.Sprintf("suspended at %s%s; %s stops before its next step", stamp(run.SuspendedAt), by, s.worker()),
			next, run.SuspendedAt, nil}
	}
	return whyAnswer{v1alpha1.ReasonSuspended, fmt.Sprintf("suspended since %s%s", stamp(run.SuspendedAt), by), next, run.SuspendedAt, nil}
}

func (s *whySeen) executing() whyAnswer {
	answer := whyAnswer{reason: v1alpha1.ReasonRunning, message: s.worker() + " executes it", since: s.Run.StartedAt}
	if w := s.newestOf(openworkflow.KindFunction); w != nil {
		answer.message = fmt.Sprintf("%s executes step %q since %s", s.worker(), short(w.StepName), stamp(began(w)))
		answer.since = began(w)
		answer.next = "nothing; if the step takes too long, look at the log of its worker"
	}
	return answer
}

// worker names the worker that holds the run.
func (s *whySeen) worker() string {
	id := text(s.Run.WorkerID)
	if pod := s.fleet.PodOf(id); pod != "" {
		return "pod " + pod
	}
	return "worker " + short(id)
}

func (s *whySeen) notDue() whyAnswer {
	run := &s.Run
	due := stamp(run.AvailableAt)
	steps := openworkflow.StepSummary{Newest: s.Newest}
	switch {
	case run.Quarantined() && !run.MadeProgress(s.Newest):
		return whyAnswer{v1alpha1.ReasonQuarantined, projection.QuarantineMessage(run, steps),
			"look at the message of its WorkerPool, and correct the code or its memory limit; nothing, if the next attempt succeeds", run.DiedAt, run.AvailableAt}
	case store.GivenBack(run):
		answer := s.unserved(&run.UpdatedAt)
		answer.until = run.AvailableAt
		return answer
	case run.Status == openworkflow.RunPending && run.Attempts == 0:
		return whyAnswer{v1alpha1.ReasonScheduled, fmt.Sprintf("starts at %s, as its availableAt says", due), "", &run.CreatedAt, run.AvailableAt}
	case run.Status == openworkflow.RunPending:
		return whyAnswer{v1alpha1.ReasonRetrying, fmt.Sprintf("retried at %s after %s", due, s.failure()),
			"look at the error; nothing, if it is temporary", &run.UpdatedAt, run.AvailableAt}
	default:
		return s.waiting()
	}
}

// failure says what has failed: the newest step, or the workflow itself.
func (s *whySeen) failure() string {
	if len(s.Newest) > 0 {
		last := &s.Newest[len(s.Newest)-1]
		if last.Status == openworkflow.StepFailed {
			n := 0
			for i := range s.Newest {
				if s.Newest[i].Status == openworkflow.StepFailed && s.Newest[i].StepName == last.StepName {
					n++
				}
			}
			return fmt.Sprintf("failure %d of step %q: %s", n, short(last.StepName), s.errorText(openworkflow.DecodeError(last.Error)))
		}
	}
	return fmt.Sprintf("failure %d of the workflow: %s", max(s.Run.Failures, 1), s.errorText(openworkflow.DecodeError(s.Run.Error)))
}

// waiting describes the newest wait, as a status does.
func (s *whySeen) waiting() whyAnswer {
	w := s.newest()
	if w == nil {
		return whyAnswer{v1alpha1.ReasonWaiting, "waiting until " + stamp(s.Run.AvailableAt), "", &s.Run.UpdatedAt, s.Run.AvailableAt}
	}
	answer := whyAnswer{reason: v1alpha1.ReasonWaiting, since: began(&w.StepAttempt), until: waitEnd(&w.StepAttempt)}
	step := short(w.StepName)
	switch {
	case w.Over:
		answer.reason, answer.message = datav1alpha1.WhyWakePending, fmt.Sprintf("the wait in step %q is over, and the run was not woken yet: a sweep does it within seconds", step)
		answer.next = "nothing; if it stays, check that the manager or a worker runs"
	case w.Kind == openworkflow.KindSleep:
		answer.reason, answer.message = datav1alpha1.WhySleeping, fmt.Sprintf("sleeping in step %q", step)
	case openworkflow.WaitsForApproval(&w.StepAttempt):
		answer.reason, answer.message = datav1alpha1.WhyWaitingForApproval, fmt.Sprintf("waiting for the approval of step %q", step)
		answer.next = "kubectl workflow inbox shows what is asked; approve or deny it by " + s.command("approve")
		if isPlain(w.StepName) {
			answer.next += " --step " + w.StepName
		}
	case w.Kind == openworkflow.KindSignalWait:
		signal := short(text(openworkflow.DecodeWaitContext(w.Context).Signal))
		answer.reason, answer.message = datav1alpha1.WhyWaitingForSignal, fmt.Sprintf("waiting for signal %q in step %q", signal, step)
		answer.next = fmt.Sprintf("send the signal %q", signal)
	case w.Kind == openworkflow.KindWorkflow:
		answer.reason, answer.message = datav1alpha1.WhyWaitingForChild, fmt.Sprintf("waiting for child run %s of step %q", short(text(w.ChildWorkflowRunID)), step)
	default:
		answer.message = fmt.Sprintf("waiting in step %q", step)
	}
	if answer.until != nil && !w.Over {
		answer.message += " until " + stamp(answer.until)
	}
	if s.WaitCount > 1 {
		answer.message += fmt.Sprintf(", and in %d more", s.WaitCount-1)
	}
	if w.Kind == openworkflow.KindWorkflow && !w.Over && s.child != nil && s.childID == text(w.ChildWorkflowRunID) {
		answer.message += fmt.Sprintf("; that is %s", s.child.Message)
		answer.next = s.child.Next
	}
	return answer
}

// waitingIn is a part of a sentence about the newest wait.
func (s *whySeen) waitingIn() string {
	if w := s.newest(); w != nil {
		return fmt.Sprintf("; it waits in step %q", short(w.StepName))
	}
	return ""
}

func (s *whySeen) unserved(since *time.Time) whyAnswer {
	return whyAnswer{v1alpha1.ReasonNoWorker, s.fleet.Unserved(&s.Run),
		"correct the workflow's name or version, or deploy or scale a WorkerPool that serves it", since, nil}
}

// queued describes a run that the next free slot takes.
func (s *whySeen) queued() whyAnswer {
	run := &s.Run
	if run.Status == openworkflow.RunRunning && run.WorkerID != nil {
		return whyAnswer{datav1alpha1.WhyLeaseExpired, fmt.Sprintf("%s has not extended its lease, which ended at %s; the next free worker takes the run over", s.worker(), stamp(run.AvailableAt)),
			"nothing", run.AvailableAt, nil}
	}
	answer := whyAnswer{reason: datav1alpha1.WhyQueued, since: run.AvailableAt}
	if run.AvailableAt.After(s.Now) { // given back by a worker that does not serve it
		answer.since = &run.UpdatedAt
	}
	answer.message = fmt.Sprintf("due since %s, and waiting for a free slot of a worker", stamp(answer.since))
	switch {
	case s.ahead >= store.MaxAhead:
		answer.message += fmt.Sprintf(" behind at least %d runs of its workflow", s.ahead)
	case s.ahead == 1:
		answer.message += " behind 1 run of its workflow"
	case s.ahead > 0:
		answer.message += fmt.Sprintf(" behind %d runs of its workflow", s.ahead)
	}
	if run.Quarantined() && !run.MadeProgress(s.Newest) {
		answer.message += fmt.Sprintf(" that executes no other run like it, as %s", openworkflow.DescribeDeaths(short(openworkflow.SuspectedStep(s.Newest)), run.Deaths))
	}
	if workers, blocked := s.fleet.Serving(run.Definition()); workers > 0 && workers == blocked {
		answer.reason = v1alpha1.ReasonStuckSteps
		answer.message += fmt.Sprintf("; the workers that serve it (%d) claim nothing, as functions that do not return occupy their slots", workers)
		answer.next = "make the functions honor their context; restarting the pods ends them"
		return answer
	}
	if slots := s.slots(); slots != "" {
		answer.message += "; " + slots
		answer.next = "nothing, or scale the WorkerPool"
	}
	return answer
}

// slots says which pools serve the run, and how many runs they execute at a time.
func (s *whySeen) slots() string {
	var texts []string
	for _, p := range s.fleet.Pools(s.Run.Definition()) {
		if p.Serves {
			texts = append(texts, fmt.Sprintf("pool %s has %d slots in %d ready pods", p.Name, p.Slots, p.Ready))
		}
	}
	return strings.Join(openworkflow.FirstOf(texts, maxPoolsInWords), ", ")
}

// newest returns the attempt that began last of those that have not ended.
func (s *whySeen) newest() *store.WaitView {
	if len(s.Waits) == 0 {
		return nil
	}
	return &s.Waits[len(s.Waits)-1]
}

func (s *whySeen) newestOf(kind openworkflow.StepKind) *openworkflow.StepAttempt {
	for i := len(s.Waits) - 1; i >= 0; i-- {
		if s.Waits[i].Kind == kind {
			return &s.Waits[i].StepAttempt
		}
	}
	return nil
}

// errorText names the type of an error, and adds its text for those who may read it.
func (s *whySeen) errorText(e openworkflow.Error) string {
	name := short(e.Name)
	if name == "" {
		name = "an error"
	}
	if !s.errors || e.Message == "" {
		return name
	}
	return name + ": " + openworkflow.Truncate(e.Message, maxWhyError)
}

// began is when an attempt began.
func began(a *openworkflow.StepAttempt) *time.Time {
	if a.StartedAt != nil {
		return a.StartedAt
	}
	return &a.CreatedAt
}

// waitEnd is when a wait ends by itself, nil if that is not known.
func waitEnd(a *openworkflow.StepAttempt) *time.Time {
	if a.Kind == openworkflow.KindFunction {
		return nil
	}
	until, err := openworkflow.DecodeWaitContext(a.Context).Until()
	if err != nil || until.IsZero() {
		return nil
	}
	return &until
}

// short cuts a name within a sentence.
func short(name string) string { return openworkflow.Truncate(name, maxWhyName) }

func stamp(t *time.Time) string {
	if t == nil {
		return "an unknown time"
	}
	return t.UTC().Format(time.RFC3339)
}

// whyOf returns the resource: the sentence, and the facts behind it.
func whyOf(seen *whySeen, meta metav1.ObjectMeta, backendName string) *datav1alpha1.RunWhy {
	answer := explainRun(*seen)
	state, _ := projection.State(&seen.Run)
	out := &datav1alpha1.RunWhy{
		ObjectMeta: meta, Message: answer.message, Reason: answer.reason, Next: answer.next, Since: timeOf(answer.since), Until: timeOf(answer.until),
		State: string(state), WorkflowName: seen.Run.WorkflowName, Version: text(seen.Run.Version), Backend: backendName, Object: seen.object, Ahead: int32(seen.ahead),
	}
	for i := range seen.Waits {
		if w := &seen.Waits[i]; !seen.Run.Status.Terminal() {
			out.Waits = append(out.Waits, datav1alpha1.RunWait{
				Step: w.StepName, Kind: string(w.Kind), Signal: text(openworkflow.DecodeWaitContext(w.Context).Signal), Child: text(w.ChildWorkflowRunID),
				Over: w.Over, Since: *timeOf(began(&w.StepAttempt)), Until: timeOf(waitEnd(&w.StepAttempt)),
			})
		}
	}
	if c := seen.child; c != nil {
		out.Blockers = append([]datav1alpha1.RunBlocker{{Run: seen.childID, WorkflowName: c.WorkflowName, Reason: c.Reason, Message: c.Message}}, c.Blockers...)
	}
	switch answer.reason {
	case v1alpha1.ReasonNoWorker, datav1alpha1.WhyQueued, datav1alpha1.WhyLeaseExpired, v1alpha1.ReasonStuckSteps:
		out.Pools = poolsOf(seen.fleet, seen.Run.Definition())
	}
	return out
}

func poolsOf(f *fleet.Fleet, d openworkflow.Definition) (pools []datav1alpha1.RunPool) {
	for _, p := range f.Pools(d) {
		if len(pools) == maxWhyPools {
			break
		}
		pools = append(pools, datav1alpha1.RunPool{
			Name: p.Name, ReadyPods: p.Ready, DesiredPods: p.Desired, Slots: p.Slots, Serves: p.Serves,
			Workflows: p.Workflows[:min(len(p.Workflows), maxPoolDefs)],
		})
	}
	return pools
}
