package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const day = 24 * 60 * 60

func startRetaining(o *managerOptions) { o.Intervals.Retention = 50 * time.Millisecond }

// retain sets the retention of the world's Backend.
func (w *world) retain(b *v1alpha1.Backend, r v1alpha1.RunRetention) {
	w.t.Helper()
	modify(w, b, func(b *v1alpha1.Backend) { b.Spec.Retention = r })
}

// ended inserts runs without objects that ended two days ago.
func (w *world) ended(s *store.Store, runs ...store.NewRun) (ids []string) {
	w.t.Helper()
	for i := range runs {
		runs[i].WorkflowName = "checkout"
	}
	created, err := s.CreateRuns(w.t.Context(), runs)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range created {
		ids = append(ids, c.RunID)
	}
	if _, err := s.CancelRuns(w.t.Context(), ids); err != nil {
		w.t.Fatal(err)
	}
	w.age()
	return ids
}

// age makes all rows two days older.
func (w *world) age() {
	w.t.Helper()
	execute(w.t, w.URL, `UPDATE openworkflow.workflow_runs
SET created_at = created_at - interval '2 days', updated_at = updated_at - interval '2 days', finished_at = finished_at - interval '2 days'`)
}

// awaitRemoved waits until there is no such row.
func (w *world) awaitRemoved(s *store.Store, id string) {
	w.t.Helper()
	eventually(w.t, func() error {
		if rows, err := s.GetRuns(context.Background(), []string{id}); err != nil || len(rows) > 0 {
			return fmt.Errorf("run %s is still there, %w", id, err)
		}
		return nil
	})
}

// completeAll completes the runs of objects and waits until their status shows that.
func (w *world) completeAll(s *store.Store, objects ...*run) {
	w.t.Helper()
	for range objects {
		end(w.t, s, claim(w.t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`1`)})
	}
	for _, o := range objects {
		w.awaitState(o, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	}
}

func (w *world) delete(o *run) {
	w.t.Helper()
	if err := w.Delete(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// runsRemoved reads the metric from the registry.
func runsRemoved(t *testing.T) float64 {
	t.Helper()
	families, err := ctrlmetrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "openworkflow_runs_removed_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("there is no such metric")
	return 0
}

func TestRetention_RemovesRunsWhoseObjectIsGone(t *testing.T) {
	w := newWorld(t)
	m := w.start(startRetaining)
	b := w.backend()
	kept, deleted := newTestRun("kept"), newTestRun("deleted")
	w.create(kept, deleted)
	for _, r := range []*run{kept, deleted} {
		w.awaitState(r, v1alpha1.RunPending, v1alpha1.ReasonPending)
	}
	s := w.store()
	w.completeAll(s, kept, deleted)
	w.delete(deleted)
	w.age()
	clients := w.ended(s, store.NewRun{}, store.NewRun{IdempotencyKey: new("k")}, store.NewRun{ID: "order-1"},
		store.NewRun{Context: openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
			Cluster: "another-cluster", Namespace: w.Namespace, Name: "order", UID: "u",
		}}.Encode()})
	before := runsRemoved(t)

	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day})

	w.awaitRemoved(s, string(deleted.UID))
	w.awaitRemoved(s, clients[0])
	// A run that is read after all others is gone, so all were read.
	last := w.ended(s, store.NewRun{})
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET created_at = now() - interval '25 hours' WHERE id = '`+last[0]+`'`)
	w.awaitRemoved(s, last[0])
	if w.row(s, kept.UID) == nil {
		t.Error("the row of a run whose object exists was removed")
	}
	rows, err := s.GetRuns(t.Context(), clients)
	if err != nil || len(rows) != 3 || rows[clients[0]] != nil {
		t.Errorf("%d runs of clients are left, %v, want those with a key or an id, and another cluster's", len(rows), err)
	}
	eventually(t, func() error { // the metric follows the rows; other tests remove runs at the same time
		if n := runsRemoved(t) - before; n < 3 {
			return fmt.Errorf("the metric counts %v runs, want 3 at least", n)
		}
		return nil
	})
	eventually(t, func() error { // the log follows the metric
		if log := m.logs.String(); !strings.Contains(log, "Removed ended runs") {
			return fmt.Errorf("the log does not say it:\n%s", log)
		}
		return nil
	})
	// The object shows its run as before.
	fetch(w, kept)
	if kept.Status.State != v1alpha1.RunCompleted {
		t.Errorf("status is %+v", kept.Status)
	}

	w.delete(kept)
	w.awaitRemoved(s, string(kept.UID))
}

// TestRetention_P5_TheKeyOfAManifestIsNotForgotten: an object that is applied again
// shows the run of the first one, unless the Backend says how long keys live.
func TestRetention_P5_TheKeyOfAManifestIsNotForgotten(t *testing.T) {
	w := newWorld(t)
	w.start(startRetaining)
	b := w.backend()
	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day})
	keyed := func(r *run) { r.Spec.IdempotencyKey = "order-1" }
	first := newTestRun("order", keyed)
	w.create(first)
	w.awaitState(first, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s := w.store()
	w.completeAll(s, first)
	w.delete(first)
	w.age()
	w.awaitRemoved(s, w.ended(s, store.NewRun{})[0]) // so the older one was read

	again := newTestRun("order", keyed)
	w.create(again)
	w.awaitState(again, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	if again.Status.RunID != string(first.UID) {
		t.Errorf("the object shows run %s, want that of the first, %s", again.Status.RunID, first.UID)
	}

	// With a ttl for keys, the run stays while an object shows it.
	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day, IdempotencyKeyTTLSeconds: day})
	w.awaitRemoved(s, w.ended(s, store.NewRun{IdempotencyKey: new("k")})[0])
	if w.row(s, first.UID) == nil {
		t.Fatal("the row that an object shows was removed")
	}
	w.delete(again)
	w.awaitRemoved(s, string(first.UID))
}

// TestRetention_P5_AnUnmirroredObjectKeepsItsRow: a manager may have died days ago between
// the insert of the row and the write of the status.
func TestRetention_P5_AnUnmirroredObjectKeepsItsRow(t *testing.T) {
	w := newWorld(t)
	killer := newKiller(1, false)
	killer.of = "create run" // a slow machine may write more than one status of the Backend before
	m := w.start(func(o *managerOptions) { o.Open, o.newClient = killer.open, killer.newClient })
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	order := newTestRun("order")
	w.create(order)
	s := w.store()
	eventually(t, func() error {
		if w.row(s, order.UID) == nil {
			return fmt.Errorf("no row yet")
		}
		return nil
	})
	m.halt()
	if fetch(w, order); order.Status.RunID != "" {
		t.Fatal("the object shows its run")
	}
	end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`1`)})
	w.age()
	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day})
	marks := w.ended(s, store.NewRun{})

	w.start(startRetaining)

	w.awaitState(order, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	w.awaitRemoved(s, marks[0])
	if row := w.row(s, order.UID); row == nil || row.Attempts != 1 {
		t.Errorf("row is %+v, want that of the one execution", row)
	}
}

// What retention removes is in the archive, for as long as that is kept.
func TestRetention_Archives(t *testing.T) {
	w := newManagedWorld(t, startRetaining)
	b := fetch(w, &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "default"}})
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	s := w.store()
	ids := w.ended(s, store.NewRun{Input: json.RawMessage(`{"order": 7}`)}, store.NewRun{})
	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day, Archive: v1alpha1.ArchiveEnabled})
	for _, id := range ids {
		w.awaitRemoved(s, id)
		if found, err := s.View(time.Minute).Archived(t.Context(), id); err != nil || found == nil {
			t.Errorf("run %s is not in the archive: %v", id, err)
		}
	}
	fork := newTestRun("again", func(r *run) { r.Spec.From = &v1alpha1.ForkSource{RunID: ids[0]} })
	w.create(fork)
	eventually(t, func() error {
		runs, err := s.GetRuns(context.Background(), []string{string(fork.UID)})
		if made := runs[string(fork.UID)]; err != nil || made == nil || made.ForkedFrom == nil || *made.ForkedFrom != ids[0] {
			return fmt.Errorf("the archived run was not forked: %+v, %w", made, err)
		}
		return nil
	})
	execute(t, w.URL, `UPDATE openworkflow.operator_archives SET archived_at = archived_at - interval '2 days'`)
	modify(w, b, func(b *v1alpha1.Backend) {
		b.Spec.Retention.Archive, b.Spec.Retention.ArchiveTTLSeconds = v1alpha1.ArchiveDisabled, day
	})
	eventually(t, func() error {
		if found, err := s.View(time.Minute).Archived(context.Background(), ids[0]); err != nil || found != nil {
			return fmt.Errorf("still in the archive, %w", err)
		}
		return nil
	})
	last := w.ended(s, store.NewRun{})[0]
	w.awaitRemoved(s, last)
	if found, err := s.View(time.Minute).Archived(t.Context(), last); err != nil || found != nil {
		t.Errorf("a run was archived although that is disabled: %v", err)
	}
}

// TestRetention_WithoutOneNoRunIsRead: what is left of signals is removed all the same.
func TestRetention_WithoutOneNoRunIsRead(t *testing.T) {
	t.Parallel()
	h := &history{runs: []string{"a"}}
	r := &retentionSweep{conn: &backend.Connection{Store: h}}
	if err := r.run(t.Context()); err != nil {
		t.Error(err)
	}
	r.conn.SetRetention(retention(newBackend()))
	if err := r.run(t.Context()); err != nil {
		t.Error(err)
	}
	if h.pages > 0 || h.signalPages != 2 {
		t.Errorf("%d pages of runs and %d of signals were read in two turns", h.pages, h.signalPages)
	}
}

// history is a database of ended runs, of which some must be kept.
type history struct {
	backend.Store
	runs  []string
	keep  map[string]bool
	large map[string]bool // of those that are kept
	seen  int             // runs that were read
	pages int
	// signalPages is the number of pages of signals that were read.
	signalPages int
	// removing is called before each removal.
	removing func()
}

func (h *history) EndedRuns(_ context.Context, _ store.Retention, after openworkflow.Cursor, limit int) (runs []store.EndedRun, next openworkflow.Cursor, err error) {
	h.pages++
	for _, id := range h.runs {
		if id <= after.ID {
			continue
		}
		if len(runs) == limit {
			return runs, openworkflow.Cursor{ID: runs[limit-1].ID}, nil
		}
		h.seen++
		runs = append(runs, store.EndedRun{ID: id})
	}
	return runs, openworkflow.Cursor{}, nil
}

func (h *history) RemoveRuns(_ context.Context, _ store.Retention, ids []string) (removed store.Removed, rest []string, err error) {
	if h.removing != nil {
		h.removing()
	}
	n := min(len(ids), 400)
	gone := map[string]bool{}
	for _, id := range ids[:n] {
		gone[id] = !h.keep[id]
	}
	left := h.runs[:0:0]
	for _, id := range h.runs {
		if gone[id] {
			removed.Runs++
		} else {
			left = append(left, id)
		}
	}
	for _, id := range ids[:n] {
		if h.large[id] {
			removed.TooLarge++
		}
	}
	h.runs = left
	return removed, ids[n:], nil
}

func (h *history) RemoveSlots(context.Context, time.Duration, int) (removed int, err error) {
	return 0, nil
}

func (h *history) RemoveSignals(context.Context, time.Duration, string, int) (next string, removed int, err error) {
	h.signalPages++
	return "", 0, nil
}

func (h *history) RemoveStrayDeliveries(context.Context, store.Retention, string, int) (next string, removed int, err error) {
	return "", 0, nil
}

// TestRetention_ASweepIsBoundedAndPassesRunsThatStay: a turn reads a bounded number of runs
// that have to stay, and later turns remove what follows them.
func TestRetention_ASweepIsBoundedAndPassesRunsThatStay(t *testing.T) {
	t.Parallel()
	h := &history{keep: map[string]bool{}}
	for i := range 25_000 {
		h.runs = append(h.runs, fmt.Sprintf("%06d", i))
		h.keep[h.runs[i]] = i < 24_000
	}
	r := newRetentionSweep(t, h)
	turns := 0
	for ; len(h.runs) > 24_000; turns++ {
		h.seen = 0
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if most := (maxEmptyPages + 1) * retentionPage; h.seen > 2*most {
			t.Fatalf("a turn read %d runs", h.seen)
		}
		if turns > 10 {
			t.Fatalf("%d runs are left", len(h.runs))
		}
	}
	if turns != 3 {
		t.Errorf("%d turns, want 3", turns)
	}
}

// TestRetention_OneRoundFollowsAnother in the same turn while something is removed, as
// parents can be removed after their children.
func TestRetention_OneRoundFollowsAnother(t *testing.T) {
	t.Parallel()
	h := &history{runs: []string{"grandparent", "parent", "this"}, keep: map[string]bool{"grandparent": true, "parent": true}}
	h.removing = func() {
		switch len(h.runs) {
		case 2:
			delete(h.keep, "parent")
		case 1:
			delete(h.keep, "grandparent")
		}
	}
	if err := newRetentionSweep(t, h).run(t.Context()); err != nil || len(h.runs) > 0 || h.pages != 4 {
		t.Errorf("%d pages, %v are left, %v; want 4 and none", h.pages, h.runs, err)
	}
}

// TestRetention_StopsWhenItIsRevoked, between one transaction and the next.
func TestRetention_StopsWhenItIsRevoked(t *testing.T) {
	t.Parallel()
	h := &history{}
	for i := range 1000 {
		h.runs = append(h.runs, fmt.Sprintf("%06d", i))
	}
	r := newRetentionSweep(t, h)
	h.removing = func() { r.conn.SetRetention(nil) }
	if err := r.run(t.Context()); err != nil || len(h.runs) != 600 {
		t.Errorf("%d runs are left, %v; want all but those of one transaction", len(h.runs), err)
	}
}

// TestRetention_P7_SaysWhichRunsNoArchiveTakes by an event of the Backend, once for each number of them.
func TestRetention_P7_SaysWhichRunsNoArchiveTakes(t *testing.T) {
	t.Parallel()
	h := &history{runs: []string{"a", "b", "c"}, keep: map[string]bool{"a": true, "b": true}, large: map[string]bool{"a": true}}
	r := newRetentionSweep(t, h)
	recorder := events.NewFakeRecorder(10)
	r.events = recorder
	for _, want := range []string{"1 runs", "", "2 runs", "", "1 runs"} {
		if err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := ""
		select {
		case got = <-recorder.Events:
		default:
		}
		if (got == "") != (want == "") || !strings.HasPrefix(got, strings.TrimSpace("Warning TooLargeToArchive "+want)) && want != "" {
			t.Errorf("the event is %q, want one about %q", got, want)
		}
		if want == "" { // the next turns find other numbers
			h.large["b"] = !h.large["b"]
		}
	}
}

func newRetentionSweep(t *testing.T, s backend.Store) *retentionSweep {
	t.Helper()
	conn := &backend.Connection{Store: s}
	conn.SetRetention(&store.Retention{After: time.Hour})
	return &retentionSweep{conn: conn, cache: cachedRuns{}}
}

// TestRetention_KeepsRunsOfObjectsItCannotRead, as they may exist.
func TestRetention_KeepsRunsOfObjectsItCannotRead(t *testing.T) {
	t.Parallel()
	cached := cachedRuns{objects: []*v1alpha1.WorkflowRun{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "order", UID: "u"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "later", UID: "l"}, Status: v1alpha1.WorkflowRunStatus{RunID: "first"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "own", UID: "own"}, Status: v1alpha1.WorkflowRunStatus{RunID: "own"}},
	}}
	ref := func(cluster, namespace, name, uid string) *openworkflow.ObjectRef {
		return &openworkflow.ObjectRef{Cluster: cluster, Namespace: namespace, Name: name, UID: uid}
	}
	r := &retentionSweep{cache: cached, cluster: "c", conn: &backend.Connection{Key: types.NamespacedName{Namespace: "shop", Name: "default"}}}
	for name, c := range map[string]struct {
		run  store.EndedRun
		want bool
	}{
		"no object":                        {store.EndedRun{ID: "r"}, false},
		"the object exists":                {store.EndedRun{ID: "u", Object: ref("c", "shop", "order", "u")}, true},
		"it is gone":                       {store.EndedRun{ID: "g", Object: ref("c", "shop", "gone", "g")}, false},
		"another has its name":             {store.EndedRun{ID: "o", Object: ref("c", "shop", "order", "o")}, false},
		"another cluster's":                {store.EndedRun{ID: "g", Object: ref("d", "shop", "gone", "g")}, true},
		"in a namespace not watched":       {store.EndedRun{ID: "g", Object: ref("c", "unwatched", "gone", "g")}, true},
		"of another shape":                 {store.EndedRun{ID: "g", Object: ref("c", "", "", "")}, true},
		"a later object shows it":          {store.EndedRun{ID: "first", Keyed: true, Object: ref("c", "shop", "gone", "first")}, true},
		"no object, but a later one's":     {store.EndedRun{ID: "first", Keyed: true}, true},
		"with a key, but nobody shows it":  {store.EndedRun{ID: "second", Keyed: true}, false},
		"its object is the one with a key": {store.EndedRun{ID: "u", Keyed: true, Object: ref("c", "shop", "order", "u")}, true},
		"only its own object had shown it": {store.EndedRun{ID: "own", Keyed: true, Object: ref("c", "shop", "gone", "own")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.hasObject(t.Context(), &c.run)
			if err != nil || got != c.want {
				t.Errorf("got %t, %v, want %t", got, err, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.hasObject(ctx, &store.EndedRun{ID: "g", Object: ref("c", "shop", "gone", "g")}); err == nil {
		t.Error("a canceled read counts as an answer")
	}
}

// cachedRuns is a cache of some objects that does not watch one namespace.
type cachedRuns struct {
	client.Client
	objects []*v1alpha1.WorkflowRun
}

func (c cachedRuns) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if key.Namespace == "unwatched" {
		return fmt.Errorf("unable to get: %v because of unknown namespace for the cache", key)
	}
	if of, ok := into.(*v1alpha1.Backend); ok {
		of.Namespace, of.Name = key.Namespace, key.Name
		return nil
	}
	for _, o := range c.objects {
		if run, ok := into.(*v1alpha1.WorkflowRun); ok && client.ObjectKeyFromObject(o) == key {
			*run = *o
			return nil
		}
	}
	return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("workflowruns").GroupResource(), key.Name)
}

func (c cachedRuns) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	asked := (&client.ListOptions{}).ApplyOptions(options)
	for _, o := range c.objects {
		for _, id := range attachedRunID(o) {
			if list, ok := into.(*v1alpha1.WorkflowRunList); ok && asked.FieldSelector.Matches(fields.Set{indexAttachedByRunID: id}) {
				list.Items = append(list.Items, *o)
			}
		}
	}
	return nil
}

func TestRetention_P7_BadValuesAreRefusedWithAReason(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		retention v1alpha1.RunRetention
		want      string
	}{
		"an hour": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: 3600},
			`spec.retention.ttlSecondsAfterFinished: Invalid value: 3600: must be at least 86400, which is a day: OpenWorkflow's clients look for a run that far back before they start another with its idempotency key`,
		},
		"negative": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: -1},
			`spec.retention.ttlSecondsAfterFinished: Invalid value: -1: spec.retention.ttlSecondsAfterFinished in body should be greater than or equal to 1`,
		},
		"keys alone": {
			v1alpha1.RunRetention{IdempotencyKeyTTLSeconds: day},
			`spec.retention: Invalid value: idempotencyKeyTTLSeconds needs ttlSecondsAfterFinished, without which no row is removed`,
		},
		"keys end before their runs": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: 2 * day, IdempotencyKeyTTLSeconds: day},
			`spec.retention: Invalid value: idempotencyKeyTTLSeconds must not be shorter than ttlSecondsAfterFinished`,
		},
		"objects before their end": {
			v1alpha1.RunRetention{ObjectTTLSecondsAfterFinished: new(int32(-1))},
			`spec.retention.objectTTLSecondsAfterFinished: Invalid value: -1: spec.retention.objectTTLSecondsAfterFinished in body should be greater than or equal to 0`,
		},
		"an archive of nothing": {
			v1alpha1.RunRetention{Archive: v1alpha1.ArchiveEnabled},
			`spec.retention: Invalid value: archive needs ttlSecondsAfterFinished, without which no row is removed`,
		},
		"another archive": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: day, Archive: "Sometimes"},
			`spec.retention.archive: Unsupported value: "Sometimes": supported values: "Enabled", "Disabled"`,
		},
		"the end of no archive": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: day, ArchiveTTLSeconds: 1},
			`spec.retention: Invalid value: archiveTTLSeconds needs archive: Enabled, or Disabled to remove only the archives that exist`,
		},
		"an archive that ends before": {
			v1alpha1.RunRetention{TTLSecondsAfterFinished: day, Archive: v1alpha1.ArchiveEnabled, ArchiveTTLSeconds: -1},
			`spec.retention.archiveTTLSeconds: Invalid value: -1: spec.retention.archiveTTLSeconds in body should be greater than or equal to 1`,
		},
		"an archive":             {v1alpha1.RunRetention{TTLSecondsAfterFinished: day, Archive: v1alpha1.ArchiveEnabled, ArchiveTTLSeconds: 1}, ""},
		"objects alone":          {v1alpha1.RunRetention{ObjectTTLSecondsAfterFinished: new(int32(0))}, ""},
		"a day":                  {v1alpha1.RunRetention{TTLSecondsAfterFinished: day}, ""},
		"a day for keys as well": {v1alpha1.RunRetention{TTLSecondsAfterFinished: day, IdempotencyKeyTTLSeconds: day}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			b.Namespace, b.Name = w.Namespace, strings.ReplaceAll(name, " ", "-")
			b.Spec.Retention = c.retention
			err := w.Create(t.Context(), b)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}
