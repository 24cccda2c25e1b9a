package dataapi

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var whyNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func at(minutes int) *time.Time { return new(whyNow.Add(time.Duration(minutes) * time.Minute)) }

// whyRun is a run of workflow checkout, 2 hours old.
func whyRun(status openworkflow.RunStatus, change func(*whySeen)) whySeen {
	pool := v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	pool.Spec.Concurrency, pool.Status.ReadyReplicas = new(int32(5)), new(int32(2))
	seen := whySeen{
		WhyView: &store.WhyView{Now: whyNow, Run: openworkflow.Run{
			ID: "r-1", WorkflowName: "checkout", Status: status, CreatedAt: *at(-120), UpdatedAt: *at(-30), StartedAt: at(-110),
		}},
		fleet: fleet.New("default", []v1alpha1.WorkerPool{pool}, []store.Worker{
			{PodUID: "pod", Process: "p", PodName: "shop-7f-x2", Pool: "shop", Workflows: []openworkflow.Definition{{Name: "checkout"}}},
		}),
		errors: true,
	}
	change(&seen)
	return seen
}

func waits(kind openworkflow.StepKind, name, context string) func(*whySeen) {
	return func(s *whySeen) {
		a := openworkflow.StepAttempt{
			StepName: name, Kind: kind, Status: openworkflow.StepRunning, StartedAt: at(-40), CreatedAt: *at(-40), UpdatedAt: *at(-40),
			Context: json.RawMessage(context), ChildWorkflowRunID: new("r-2"),
		}
		s.Waits, s.WaitCount = append(s.Waits, store.WaitView{StepAttempt: a}), s.WaitCount+1
		s.Newest = append(s.Newest, a)
		s.Run.AvailableAt = at(60)
		s.Run.Attempts = 1
	}
}

func all(changes ...func(*whySeen)) func(*whySeen) {
	return func(s *whySeen) {
		for _, change := range changes {
			change(s)
		}
	}
}

func failedStep(name string, times int) func(*whySeen) {
	return func(s *whySeen) {
		for range times {
			s.Newest = append(s.Newest, openworkflow.StepAttempt{
				StepName: name, Kind: openworkflow.KindFunction, Status: openworkflow.StepFailed, CreatedAt: *at(-35), FinishedAt: at(-34),
				Error: json.RawMessage(`{"name": "CardError", "message": "no funds"}`),
			})
		}
	}
}

func TestExplainRun_HasASentenceForEachState(t *testing.T) {
	t.Parallel()
	ended := func(raw string) func(*whySeen) {
		return func(s *whySeen) { s.Run.FinishedAt, s.Run.Error, s.Run.Attempts = at(-5), json.RawMessage(raw), 1 }
	}
	leased := func(s *whySeen) { s.Run.WorkerID, s.Run.AvailableAt = new("pod.p.7"), at(1) }
	due := func(minutes int) func(*whySeen) { return func(s *whySeen) { s.Run.AvailableAt = at(minutes) } }
	deaths := func(n int) func(*whySeen) {
		return func(s *whySeen) {
			s.Run.Deaths, s.Run.DiedAt = n, at(-1)
			s.Newest = append(s.Newest, openworkflow.StepAttempt{StepName: "resize", Kind: openworkflow.KindFunction, Status: openworkflow.StepRunning, CreatedAt: *at(-2)})
		}
	}
	type answer struct{ Reason, Message, Next string }
	for name, test := range map[string]struct {
		status openworkflow.RunStatus
		change func(*whySeen)
		want   answer
	}{
		"completed": {openworkflow.RunCompleted, ended(``), answer{"Completed", "completed at 2026-05-01T11:55:00Z", ""}},
		"failed": {openworkflow.RunFailed, ended(`{"name": "CardError", "message": "no funds"}`),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with CardError: no funds", "correct the cause, and retry it: kubectl workflow retry run/r-1"}},
		"failed, for a viewer": {openworkflow.RunFailed, all(ended(`{"name": "CardError", "message": "no funds"}`), func(s *whySeen) { s.errors = false }),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with CardError", "correct the cause, and retry it: kubectl workflow retry run/r-1"}},
		"failed without a name": {openworkflow.RunFailed, all(ended(`"secret"`), func(s *whySeen) { s.errors = false }),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with an error", "correct the cause, and retry it: kubectl workflow retry run/r-1"}},
		"failed, of an object": {openworkflow.RunFailed, all(ended(`{"name": "CardError"}`), func(s *whySeen) { s.object = "order-1" }),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with CardError", "correct the cause, and retry it: kubectl workflow retry order-1"}},
		"failed, of a hostile id": {openworkflow.RunFailed, all(ended(`{"name": "CardError"}`), func(s *whySeen) { s.Run.ID = "x;reboot" }),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with CardError", "correct the cause, and retry it: kubectl workflow retry RUN"}},
		"superseded": {openworkflow.RunFailed, all(ended(`{"name": "CardError"}`), func(s *whySeen) { s.Run.SupersededBy, s.object = new("r-2"), "order-1" }),
			answer{"WorkflowFailed", "failed at 2026-05-01T11:55:00Z with CardError; run r-2 was forked from it",
				"nothing here; see the run that was forked from it: kubectl workflow why run/r-2"}},
		"superseded, completed": {openworkflow.RunCompleted, all(ended(``), func(s *whySeen) { s.Run.SupersededBy = new("r-2") }),
			answer{"Completed", "completed at 2026-05-01T11:55:00Z; run r-2 was forked from it",
				"nothing here; see the run that was forked from it: kubectl workflow why run/r-2"}},
		"failed by its deadline": {openworkflow.RunFailed, all(ended(`{"message": "Workflow run deadline exceeded"}`), func(s *whySeen) { s.Run.DeadlineAt = at(-5) }),
			answer{"DeadlineExceeded", "failed at 2026-05-01T11:55:00Z, as it had not ended before its deadline 2026-05-01T11:55:00Z", "retry it, which sets no deadline: kubectl workflow retry run/r-1"}},
		"failed by deaths": {openworkflow.RunFailed, all(ended(`{"name": "WorkerDeathsExceededError", "message": "m"}`), deaths(5)),
			answer{"WorkerDeathsExceeded", `failed at 2026-05-01T11:55:00Z: the worker process has died 5 times in a row in step "resize" of the run`,
				"look at the message of its WorkerPool, correct the code or its memory limit, and retry it: kubectl workflow retry run/r-1"}},
		"canceled":             {openworkflow.RunCanceled, ended(``), answer{"Canceled", "canceled at 2026-05-01T11:55:00Z", "nothing; if it was canceled by mistake: kubectl workflow retry run/r-1"}},
		"of an unknown status": {"odd", func(*whySeen) {}, answer{"Pending", `its status is "odd", which no worker knows`, "find out who has written the row"}},
		"scheduled":            {openworkflow.RunPending, due(30), answer{"Scheduled", "starts at 2026-05-01T12:30:00Z, as its availableAt says", ""}},
		"past its deadline": {openworkflow.RunPending, all(due(-1), func(s *whySeen) { s.Run.DeadlineAt = at(-1) }),
			answer{"DeadlineExceeded", "its deadline 2026-05-01T11:59:00Z has passed, so it fails within seconds", "nothing"}},
		"never due": {openworkflow.RunPending, func(*whySeen) {}, answer{"NeverDue", "its row has no time at which it is due, so no worker claims it",
			"nothing, if what it waits for comes; else cancel it"}},
		"suspended": {openworkflow.RunPending, func(s *whySeen) { s.Run.SuspendedAt = at(-9) },
			answer{"Suspended", "suspended since 2026-05-01T11:51:00Z", "resume it: kubectl workflow resume run/r-1"}},
		"suspended by its object": {openworkflow.RunPending, func(s *whySeen) { s.Run.SuspendedAt, s.object, s.manager = at(-9), "order-1", "kubectl-edit" },
			answer{"Suspended", `suspended since 2026-05-01T11:51:00Z by spec.suspend of WorkflowRun "order-1", which "kubectl-edit" has set`,
				"set spec.suspend of the WorkflowRun to false where it was set, or: kubectl workflow resume order-1"}},
		"suspended while executed": {openworkflow.RunRunning, all(leased, func(s *whySeen) { s.Run.SuspendedAt = at(-9) }),
			answer{"Suspending", "suspended at 2026-05-01T11:51:00Z; pod shop-7f-x2 stops before its next step", "resume it: kubectl workflow resume run/r-1"}},
		"executed": {openworkflow.RunRunning, leased, answer{"Running", "pod shop-7f-x2 executes it", ""}},
		"executing a step": {openworkflow.RunRunning, all(waits(openworkflow.KindFunction, "charge", ``), leased),
			answer{"Running", `pod shop-7f-x2 executes step "charge" since 2026-05-01T11:20:00Z`, "nothing; if the step takes too long, look at the log of its worker"}},
		"executed by a stranger": {openworkflow.RunRunning, all(leased, func(s *whySeen) { s.Run.WorkerID = new("ts-1") }),
			answer{"Running", "worker ts-1 executes it", ""}},
		"lease expired": {openworkflow.RunRunning, all(leased, due(-2)),
			answer{"LeaseExpired", "pod shop-7f-x2 has not extended its lease, which ended at 2026-05-01T11:58:00Z; the next free worker takes the run over", "nothing"}},
		"retried after a step": {openworkflow.RunPending, all(failedStep("charge", 2), due(3), func(s *whySeen) { s.Run.Attempts = 2 }),
			answer{"Retrying", `retried at 2026-05-01T12:03:00Z after failure 2 of step "charge": CardError: no funds`, "look at the error; nothing, if it is temporary"}},
		"retried after the workflow": {openworkflow.RunPending, all(due(3), func(s *whySeen) {
			s.Run.Attempts, s.Run.Failures, s.Run.Error, s.errors = 2, 3, json.RawMessage(`{"name": "TypeError", "message": "secret"}`), false
		}), answer{"Retrying", "retried at 2026-05-01T12:03:00Z after failure 3 of the workflow: TypeError", "look at the error; nothing, if it is temporary"}},
		"quarantined": {openworkflow.RunRunning, all(deaths(3), due(1), func(s *whySeen) { s.Run.Attempts = 3 }),
			answer{"Quarantined", `the worker process has died 3 times in a row in step "resize" of the run; next attempt at 2026-05-01T12:01:00Z, apart from other such runs`,
				"look at the message of its WorkerPool, and correct the code or its memory limit; nothing, if the next attempt succeeds"}},
		"sleeping": {openworkflow.RunRunning, waits(openworkflow.KindSleep, "cool-off", `{"kind":"sleep","resumeAt":"2026-05-01T13:00:00.000Z"}`),
			answer{"Sleeping", `sleeping in step "cool-off" until 2026-05-01T13:00:00Z`, ""}},
		"waiting for a signal": {openworkflow.RunRunning, waits(openworkflow.KindSignalWait, "ask", `{"kind":"signal-wait","signal":"approve","timeoutAt":"2026-05-02T12:00:00.000Z"}`),
			answer{"WaitingForSignal", `waiting for signal "approve" in step "ask" until 2026-05-02T12:00:00Z`, `send the signal "approve"`}},
		"waiting for several": {openworkflow.RunRunning, all(waits(openworkflow.KindSleep, "a", ``), waits(openworkflow.KindSignalWait, "b", `{"signal":"go"}`)),
			answer{"WaitingForSignal", `waiting for signal "go" in step "b", and in 1 more`, `send the signal "go"`}},
		"waiting for a child": {openworkflow.RunRunning, all(waits(openworkflow.KindWorkflow, "print", `{}`), func(s *whySeen) {
			s.child, s.childID = &datav1alpha1.RunWhy{Message: `waiting for signal "paper" in step "load"`, Next: `send the signal "paper"`}, "r-2"
		}), answer{"WaitingForChild", `waiting for child run r-2 of step "print"; that is waiting for signal "paper" in step "load"`, `send the signal "paper"`}},
		"not woken": {openworkflow.RunRunning, all(waits(openworkflow.KindWorkflow, "print", `{}`), func(s *whySeen) { s.Waits[0].Over = true }),
			answer{"WakePending", `the wait in step "print" is over, and the run was not woken yet: a sweep does it within seconds`,
				"nothing; if it stays, check that the manager or a worker runs"}},
		"waiting for nothing known": {openworkflow.RunRunning, due(7), answer{"Waiting", "waiting until 2026-05-01T12:07:00Z", ""}},
		"no worker": {openworkflow.RunPending, all(due(-7), func(s *whySeen) { s.Run.WorkflowName = "chekout" }),
			answer{"NoWorker", `no worker serves workflow "chekout"; pools: shop serves checkout`,
				"correct the workflow's name or version, or deploy or scale a WorkerPool that serves it"}},
		"given back, not served": {openworkflow.RunPending, all(due(4), func(s *whySeen) {
			s.Run.WorkflowName, s.Run.Attempts, s.Run.Error = "chekout", 1, json.RawMessage(`{"message": "Workflow \"chekout\" is not registered"}`)
		}), answer{"NoWorker", `no worker serves workflow "chekout"; pools: shop serves checkout`,
			"correct the workflow's name or version, or deploy or scale a WorkerPool that serves it"}},
		"given back, served": {openworkflow.RunPending, all(due(4), func(s *whySeen) {
			s.Run.Attempts, s.Run.Error = 1, json.RawMessage(`{"message": "Workflow \"checkout\" is not registered"}`)
		}), answer{"Queued", "due since 2026-05-01T11:30:00Z, and waiting for a free slot of a worker; pool shop has 10 slots in 2 ready pods", "nothing, or scale the WorkerPool"}},
		"queued": {openworkflow.RunPending, all(due(-7), func(s *whySeen) { s.ahead = 37 }),
			answer{"Queued", "due since 2026-05-01T11:53:00Z, and waiting for a free slot of a worker behind 37 runs of its workflow; pool shop has 10 slots in 2 ready pods",
				"nothing, or scale the WorkerPool"}},
		"queued behind many": {openworkflow.RunPending, all(due(-7), func(s *whySeen) { s.ahead = 1000 }),
			answer{"Queued", "due since 2026-05-01T11:53:00Z, and waiting for a free slot of a worker behind at least 1000 runs of its workflow; pool shop has 10 slots in 2 ready pods",
				"nothing, or scale the WorkerPool"}},
		"queued before stuck workers": {openworkflow.RunPending, all(due(-7), func(s *whySeen) {
			s.fleet = fleet.New("default", nil, []store.Worker{{Blocked: true, Workflows: []openworkflow.Definition{{Name: "checkout"}}}})
		}), answer{"StuckSteps", "due since 2026-05-01T11:53:00Z, and waiting for a free slot of a worker; " +
			"the workers that serve it (1) claim nothing, as functions that do not return occupy their slots", "make the functions honor their context; restarting the pods ends them"}},
		"quarantined and due": {openworkflow.RunRunning, all(deaths(2), due(-1)),
			answer{"Queued", "due since 2026-05-01T11:59:00Z, and waiting for a free slot of a worker that executes no other run like it, as " +
				`the worker process has died 2 times in a row in step "resize" of the run; pool shop has 10 slots in 2 ready pods`, "nothing, or scale the WorkerPool"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := explainRun(whyRun(test.status, test.change))
			if diff := cmp.Diff(test.want, answer{got.reason, got.message, got.next}); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}
