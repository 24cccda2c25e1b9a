//go:build bench

package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// The good runs of W11. With 20 slots, a thousand of them take two and a half minutes: several
// times as long as a container that crashes again and again is kept down.
const (
	poisonPods  = 2
	poisonSlots = 10
	goodMillis  = 600 // of each step
)

// poison is W11: good runs on two worker pods, with and without a run among them that kills each
// process that executes it. There is no manager: a worker releases what the last process of its
// pod held. The lease outlasts the longest pause between two processes, so that no death goes
// unnoticed because another pod takes the run over.
func (s *session) poison(t *testing.T, d *disk) {
	program(t, "./test/bench/worker")
	for round := range s.poisonRounds {
		var alone, beside report.Sample
		measure := func(poisoned bool, patience time.Duration) report.Sample {
			b := d.newBase(t)
			defer b.drop()
			return poison(b, s.good, poisoned, patience)
		}
		alone = measure(false, patience)
		without := time.Duration(alone["s"] * float64(time.Second))
		beside = measure(true, 3*without+time.Minute)
		beside["runs/s without"] = alone["runs/s"]
		beside["÷ without"] = beside["runs/s"] / alone["runs/s"]
		s.report.Add(d.name, "W11 a poison run among good ones", beside)
		t.Logf("W11 a poison run among good ones, round %d: %v", round+1, beside)
	}
}

// poison executes good runs, and measures until all have completed and the poison run has ended,
// or the time is over.
func poison(b *base, good int, poisoned bool, atMost time.Duration) report.Sample {
	b.t.Helper()
	ledger := filepath.Join(b.t.TempDir(), fmt.Sprintf("ledger-%s", b.name))
	ctx, stopPods := context.WithCancel(b.t.Context())
	var pods sync.WaitGroup
	for range poisonPods {
		p := &pod{b: b, uid: openworkflow.NewID(), environment: []string{
			workflows.Ledger + "=" + ledger,
			"OPENWORKFLOW_CONCURRENCY=" + strconv.Itoa(poisonSlots),
			"OPENWORKFLOW_LEASE_SECONDS=120",
		}}
		pods.Go(func() { p.run(ctx) })
	}
	defer pods.Wait()
	defer stopPods()

	since := b.now()
	inputs := make([]workflows.Work, good)
	for i := range inputs {
		inputs[i] = workflows.Work{Steps: workflows.Steps, Millis: goodMillis}
	}
	startAll(b, workflows.Recorded, inputs[:good/10])
	var bad []string
	if poisoned {
		run, err := client.Start(b.t.Context(), b.client, workflows.Poison, struct{}{})
		if err != nil {
			b.t.Fatal(err)
		}
		bad = append(bad, run.ID())
	}
	startAll(b, workflows.Recorded, inputs[good/10:])

	ended, completed := false, 0
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(atMost); completed < good || poisoned && !ended; {
		select {
		case <-look.C:
			completed = b.completed(workflows.Recorded.Name(), since)
			ended = poisoned && b.failed(bad[0])
			continue
		case <-deadline:
		case <-b.t.Context().Done():
		}
		break
	}
	return b.poisonSample(ledger, since, bad)
}

// poisonSample reads the result from the rows and the ledger. The time of the good runs is that
// from the first start to the last end, or to now if some have not ended.
func (b *base) poisonSample(ledger string, since time.Time, bad []string) report.Sample {
	b.t.Helper()
	var completed, seconds float64
	b.scan(`
SELECT count(*) FILTER (WHERE status = 'completed'),
	extract(epoch FROM CASE WHEN bool_and(status = 'completed') THEN max(finished_at) ELSE now() END - min(started_at))
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND workflow_name = $1 AND created_at >= $2`,
		[]any{workflows.Recorded.Name(), since}, &completed, &seconds)
	others, kills := mostExecutions(b.t, ledger, bad)
	sample := report.Sample{"s": seconds, "runs/s": completed / seconds, "good runs completed": completed, "executions/step": others}
	if len(bad) == 0 {
		return sample
	}
	sample["processes killed"] = kills
	sample["poison runs ended"] = 0
	if b.failed(bad[0]) {
		var took float64
		b.scan(`SELECT extract(epoch FROM finished_at - created_at) FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND id = $1`,
			[]any{bad[0]}, &took)
		sample["poison runs ended"], sample["s to the end of the poison run"] = 1, took
	}
	return sample
}

// failed reports whether a run has failed.
func (b *base) failed(id string) (failed bool) {
	b.t.Helper()
	b.scan(`SELECT status = 'failed' FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND id = $1`, []any{id}, &failed)
	return failed
}

// pod runs a worker as the kubelet runs the container of a pod: all its processes have the uid of
// the pod, and one that has ended is started again.
type pod struct {
	b           *base
	uid         string
	environment []string
}

// crashBackoff is how long the kubelet waits before it starts a container again: the first time
// not at all, then 10 s and twice as long each time, at most five minutes
// (kuberuntime_manager.go: doBackOff; MaxContainerBackOff). It starts over after ten minutes
// without a crash, which no measurement lasts.
func crashBackoff(crashes int) time.Duration {
	if crashes <= 1 {
		return 0
	}
	return min(10*time.Second<<min(crashes-2, 10), 5*time.Minute)
}

// run starts a process, and another one when it has ended, until ctx ends.
func (p *pod) run(ctx context.Context) {
	for crashes := 1; ; crashes++ {
		process := start(p.b.t, 0, append([]string{
			"OPENWORKFLOW_POSTGRES_URL=" + p.b.url,
			"OPENWORKFLOW_HEALTH_PORT=0",
			"POD_UID=" + p.uid,
			"POD_NAME=pod-" + p.uid,
		}, p.environment...), program(p.b.t, "./test/bench/worker"))
		select {
		case <-process.exited:
		case <-ctx.Done():
			process.kill()
			return
		}
		select {
		case <-time.After(crashBackoff(crashes)):
		case <-ctx.Done():
			return
		}
	}
}
