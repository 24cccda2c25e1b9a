//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const (
	// orderEvery is the interval between two orders of the honest tenant.
	orderEvery = 125 * time.Millisecond
	// patience is how long an order may take. One that takes longer is lost.
	patience = 30 * time.Second
	// keptKey is the idempotency key of a run that starts long after the test.
	keptKey = "order-77"
)

// honestLoad is the steady load of the honest tenant, with what is expected of it.
type honestLoad struct {
	*tenant
	mu      sync.Mutex
	created map[string]time.Time
	ended   map[string]time.Time
	// errors are refusals of creates, which nobody expects.
	errors []error
	// bare are the ConfigMaps that are created and updated meanwhile, which only the API server
	// handles: by name, when each was created, and how long it took.
	bareSince map[string]time.Time
	bare      latencies
	// arrived has room for one value, which says that ended has changed.
	arrived chan struct{}
}

// newHonestLoad begins to watch the honest tenant's runs.
func (s *scene) newHonestLoad() *honestLoad {
	s.Helper()
	l := &honestLoad{tenant: s.honest, created: map[string]time.Time{}, ended: map[string]time.Time{}, bareSince: map[string]time.Time{}, arrived: make(chan struct{}, 1)}
	if err := v1alpha1.AddToScheme(l.admin.Scheme()); err != nil {
		s.Fatal(err)
	}
	kept := l.newRun("kept", fields{"workflowName": "checkout", "input": orderInput("kept"), "idempotencyKey": keptKey,
		"availableAt": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)})
	l.must(l.admin.Create(s.Context(), kept))
	l.awaitKept()
	ctx, cancel := context.WithCancel(s.Context())
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(ctx) })
	watching.Go(func() { l.watchBare(ctx) })
	s.Cleanup(func() { cancel(); watching.Wait() })
	return l
}

// watch notes when the honest tenant's runs have completed, until ctx ends. A watch that the API
// server ends is opened again, and begins with all objects.
func (l *honestLoad) watch(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := l.admin.Watch(ctx, &v1alpha1.WorkflowRunList{}, client.InNamespace(l.namespace))
		if err != nil {
			continue
		}
		for event := range events.ResultChan() {
			run, ok := event.Object.(*v1alpha1.WorkflowRun)
			if ok && meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionComplete) {
				l.end(run.Name, time.Now())
			}
		}
	}
}

// watchBare updates each of the bare ConfigMaps once it is seen, and notes when the update is seen.
func (l *honestLoad) watchBare(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := l.admin.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace(l.namespace), client.MatchingLabels{"bare": "true"})
		if err != nil {
			continue
		}
		for event := range events.ResultChan() {
			object, ok := event.Object.(*corev1.ConfigMap)
			switch {
			case !ok || event.Type == watch.Deleted:
			case object.Data["updated"] == "":
				patch := client.RawPatch(types.MergePatchType, []byte(`{"data": {"updated": "true"}}`))
				go func() { _ = l.admin.Patch(ctx, object.DeepCopy(), patch) }()
			default:
				l.endBare(object.Name, time.Now())
				go func() { _ = l.admin.Delete(ctx, object.DeepCopy()) }()
			}
		}
	}
}

func (l *honestLoad) endBare(name string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since, open := l.bareSince[name]; open {
		l.bare = append(l.bare, at.Sub(since))
		delete(l.bareSince, name)
	}
}

// takeBare returns how long the bare ConfigMaps have taken since it was last called: two writes,
// and an event of each, as a run needs of the API server.
func (l *honestLoad) takeBare() latencies {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.bare
	for _, since := range l.bareSince {
		took = append(took, time.Since(since))
	}
	clear(l.bareSince)
	l.bare = nil
	slices.Sort(took)
	return took
}

func (l *honestLoad) createBare(name string) {
	l.mu.Lock()
	l.bareSince[name] = time.Now()
	l.mu.Unlock()
	_ = l.admin.Create(l.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: l.namespace, Name: name, Labels: map[string]string{"bare": "true"},
	}})
}

func (l *honestLoad) end(name string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.ended[name]; known {
		return
	}
	l.ended[name] = at
	select {
	case l.arrived <- struct{}{}:
	default:
	}
}

// measure creates an order every orderEvery for this long, whether the last one has ended or
// not, and returns how long they took. Meanwhile it calls f, whose context ends with the load.
func (l *honestLoad) measure(length time.Duration, f func(ctx context.Context)) latencies {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), length)
	defer cancel()
	var busy sync.WaitGroup
	var names []string
	busy.Go(func() { names = l.createOrders(ctx, &busy) })
	if f != nil {
		f(ctx)
	}
	<-ctx.Done()
	busy.Wait()
	return l.latencies(names)
}

// createOrders creates orders until ctx ends, each in a goroutine of its own.
func (l *honestLoad) createOrders(ctx context.Context, busy *sync.WaitGroup) (names []string) {
	ticker := time.NewTicker(orderEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return names
		case <-ticker.C:
		}
		name := fmt.Sprintf("order-%d", time.Now().UnixNano())
		names = append(names, name)
		busy.Go(func() { l.createOrder(name) })
		busy.Go(func() { l.createBare(name) })
	}
}

func (l *honestLoad) createOrder(name string) {
	l.mu.Lock()
	l.created[name] = time.Now()
	l.mu.Unlock()
	if err := l.admin.Create(l.Context(), l.order(name)); err != nil {
		l.mu.Lock()
		l.errors = append(l.errors, err)
		l.mu.Unlock()
	}
}

// latencies waits until these orders have completed, and returns how long each took.
func (l *honestLoad) latencies(names []string) latencies {
	l.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		took, missing := l.took(names)
		if missing == 0 {
			return took
		}
		select {
		case <-l.arrived:
		case <-timeout.C:
			l.Errorf("%d of %d orders of the honest tenant did not complete within %v of the last one", missing, len(names), patience)
			return took
		}
	}
}

// took returns the sorted latencies of those of the orders that have completed, and the number
// of the others, which count as the time since they were created.
func (l *honestLoad) took(names []string) (all latencies, missing int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		end, ok := l.ended[name]
		if !ok {
			missing++
			end = time.Now()
		}
		all = append(all, end.Sub(l.created[name]))
	}
	slices.Sort(all)
	return all, missing
}

// awaitKept waits until the run that starts long after the test is scheduled.
func (l *honestLoad) awaitKept() {
	l.Helper()
	l.eventually(time.Minute, "the kept run to be scheduled", func() bool {
		reason, _ := l.ready(l.newRun("kept", fields{}))
		return reason == v1alpha1.ReasonScheduled
	})
}

// legs says where the time of the orders since then went, in the median: to the insert of the row,
// to the claim by a worker, to the end, and to the event.
func (l *honestLoad) legs(since time.Time) string {
	l.Helper()
	rows, err := l.database.Query(l.Context(), `
		SELECT input ->> 'orderID', created_at, started_at, finished_at FROM workflow_runs WHERE status = 'completed' AND created_at > $1`, since)
	if err != nil {
		l.Fatal(err)
	}
	defer rows.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	var insert, claim, execute, report latencies
	for rows.Next() {
		var name string
		var created, started, finished time.Time
		if err := rows.Scan(&name, &created, &started, &finished); err != nil {
			l.Fatal(err)
		}
		if end, ok := l.ended[name]; ok {
			insert, claim = append(insert, created.Sub(l.created[name])), append(claim, started.Sub(created))
			execute, report = append(execute, finished.Sub(started)), append(report, end.Sub(finished))
		}
	}
	if err := rows.Err(); err != nil {
		l.Fatal(err)
	}
	var text []string
	for _, leg := range []struct {
		name string
		took latencies
	}{{"insert", insert}, {"claim", claim}, {"execute", execute}, {"report", report}} {
		slices.Sort(leg.took)
		text = append(text, fmt.Sprintf("%s %v, p99 %v", leg.name, leg.took.quantile(0.5).Round(time.Millisecond), leg.took.quantile(0.99).Round(time.Millisecond)))
	}
	return strings.Join(text, "; ")
}

// check is the oracle: rows and objects of the honest tenant are what its own orders make, and
// nobody else has written to them.
func (l *honestLoad) check() {
	l.Helper()
	for _, err := range l.errors {
		l.Errorf("an order is refused: %v", err)
	}
	var list v1alpha1.WorkflowRunList
	if err := l.admin.List(l.Context(), &list, client.InNamespace(l.namespace)); err != nil {
		l.Fatal(err)
	}
	receipts := l.receipts()
	pods := map[string]bool{}
	for _, pod := range l.pods() {
		pods[pod.Name] = true
		for _, c := range pod.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				l.Errorf("pod %s of the honest tenant was restarted", pod.Name)
			}
		}
	}
	wrong := 0
	for _, run := range list.Items {
		if err := l.checkRun(&run, receipts, pods); err != nil && wrong < 5 {
			wrong++
			l.Errorf("object %s of the honest tenant: %v\n%s", run.Name, err, l.history(&run))
		}
		delete(receipts, string(run.UID))
	}
	if len(receipts) > 0 {
		l.Errorf("the honest tenant has %d receipts without an order", len(receipts))
	}
	if want := len(l.created) + 1; len(list.Items) != want {
		l.Errorf("the honest tenant has %d runs, want %d", len(list.Items), want)
	}
	l.checkRows(len(list.Items))
}

// history returns what explains the status of an object.
func (l *honestLoad) history(run *v1alpha1.WorkflowRun) string {
	l.Helper()
	status, _ := json.Marshal(run.Status)
	var row string
	_ = l.database.QueryRow(l.Context(), `SELECT to_jsonb(r)::text FROM workflow_runs r WHERE id = $1`, string(run.UID)).Scan(&row)
	events := l.kubectl("-n", l.namespace, "get", "events", "--field-selector", "involvedObject.name="+run.Name)
	return fmt.Sprintf("status %s\nrow %s\n%s", status, row, events)
}

// checkRun compares one object with the receipt that its steps have left in the database.
func (l *honestLoad) checkRun(run *v1alpha1.WorkflowRun, receipts map[string]string, pods map[string]bool) error {
	status := run.Status
	switch {
	case status.Corrections != nil:
		return fmt.Errorf("somebody else has written its status: it was corrected %d times", *status.Corrections)
	case status.RunID != string(run.UID):
		return fmt.Errorf("it shows run %q", status.RunID)
	case run.Name == "kept":
		if status.State != v1alpha1.RunPending || status.Output != nil {
			return fmt.Errorf("it starts tomorrow and is %s", status.State)
		}
		return nil
	case status.State != v1alpha1.RunCompleted || status.Output == nil:
		return fmt.Errorf("it is %s: %s", status.State, status.Message)
	case !pods[status.Worker]:
		return fmt.Errorf("it was executed by %q", status.Worker)
	}
	var got, want any
	if err := json.Unmarshal(status.Output.Raw, &got); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(receipts[string(run.UID)]), &want); err != nil {
		return fmt.Errorf("it left no receipt: %w", err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("its output is %s, its steps have left %s", status.Output.Raw, receipts[string(run.UID)])
	}
	return nil
}

// receipts returns, for each run id, the output that the run must have by what its steps wrote
// to the ledger and to the mailbox.
func (l *honestLoad) receipts() map[string]string {
	l.Helper()
	rows, err := l.database.Query(l.Context(), `
		SELECT c.run_id, jsonb_build_object('orderID', c.order_id,
			'charge', jsonb_build_object('id', c.id, 'pod', c.pod), 'message', jsonb_build_object('id', m.id, 'pod', m.pod))
		FROM checkout_ledger c JOIN checkout_mailbox m USING (run_id)
		WHERE c.order_id = m.order_id AND m.recipient = c.order_id || '@example.com' AND c.amount_cents = 4999`)
	if err != nil {
		l.Fatal(err)
	}
	defer rows.Close()
	receipts := map[string]string{}
	for rows.Next() {
		var id, receipt string
		if err := rows.Scan(&id, &receipt); err != nil {
			l.Fatal(err)
		}
		receipts[id] = receipt
	}
	if err := rows.Err(); err != nil {
		l.Fatal(err)
	}
	return receipts
}

// checkRows compares the rows with the orders: one run each, executed in one claim, with two
// steps, each of them once; and nothing else.
func (l *honestLoad) checkRows(objects int) {
	l.Helper()
	orders := objects - 1 // one starts tomorrow
	for what, query := range map[string]string{
		"runs":           `SELECT count(*) - 1 FROM workflow_runs WHERE namespace_id = $1`,
		"completed runs": `SELECT count(*) FROM workflow_runs WHERE namespace_id = $1 AND status = 'completed' AND workflow_name = 'checkout' AND input ->> 'orderID' = output ->> 'orderID'`,
		"half the steps": `SELECT count(DISTINCT (workflow_run_id, step_name)) / 2 FROM step_attempts WHERE namespace_id = $1 AND status = 'completed'`,
		"charges":        `SELECT count(*) FROM checkout_ledger WHERE $1 <> ''`,
		"emails":         `SELECT count(*) FROM checkout_mailbox WHERE $1 <> ''`,
		"all runs":       `SELECT count(*) - 1 FROM workflow_runs WHERE $1 <> ''`,
		"half all steps": `SELECT count(*) / 2 FROM step_attempts WHERE $1 <> ''`,
	} {
		var got int
		if err := l.database.QueryRow(l.Context(), query, l.namespace).Scan(&got); err != nil {
			l.Fatal(err)
		}
		if got != orders {
			l.Errorf("the honest tenant has %d %s in its tables, want %d", got, what, orders)
		}
	}
}

// latencies are sorted times from the creation of an object to the event of its completion.
type latencies []time.Duration

// quantile returns the smallest latency that a share of all is not above.
func (l latencies) quantile(share float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(int(share*float64(len(l))), len(l)-1)]
}

// String lists the latencies that matter.
func (l latencies) String() string {
	round := func(share float64) time.Duration { return l.quantile(share).Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d, p50 %v, p90 %v, p99 %v, max %v", len(l), round(0.5), round(0.9), round(0.99), round(1))
}
