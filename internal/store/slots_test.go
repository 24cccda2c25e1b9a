package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// slotTTL is for how long the tests keep slots.
const slotTTL = 24 * time.Hour

// slotsBegin is the slot 0 of the tests, some hours ago.
var slotsBegin = time.Now().UTC().Truncate(time.Hour).Add(-12 * time.Hour)

// outcomeOf returns the outcome of the slots from one minute to another of the schedule nightly.
func outcomeOf(from, until int, reason string) store.SlotOutcome {
	return store.SlotOutcome{
		Schedule: store.ScheduleKey{Cluster: "cluster", Namespace: "shop", Name: "nightly", UID: "uid-1"},
		Slot:     slotsBegin.Add(time.Duration(from) * time.Minute), Last: slotsBegin.Add(time.Duration(until) * time.Minute), Slots: until - from + 1, Reason: reason,
	}
}

func (f *fixture) record(outcomes ...store.SlotOutcome) {
	f.t.Helper()
	if err := f.RecordSlots(f.t.Context(), outcomes, slotTTL); err != nil {
		f.t.Fatalf("RecordSlots: %v", err)
	}
}

var nightlySlots = store.SlotFilter{Cluster: "cluster", Namespace: "shop"}

// slots returns outcomes as a text such as "Started 3, Missed 0-2 x3".
func (f *fixture) slots(filter store.SlotFilter, after *store.SlotCursor, limit int) (text string, all []store.SlotOutcome) {
	f.t.Helper()
	page, err := f.View(5*time.Second).Slots(f.t.Context(), filter, after, limit)
	if err != nil {
		f.t.Fatalf("Slots: %v", err)
	}
	all = page.Items
	var list []string
	for _, o := range all {
		one := fmt.Sprintf("%s %d", o.Reason, o.Slot.Sub(slotsBegin)/time.Minute)
		if o.Slots > 1 {
			one += fmt.Sprintf("-%d x%d", o.Last.Sub(slotsBegin)/time.Minute, o.Slots)
		}
		list = append(list, one)
	}
	return strings.Join(list, ", "), all
}

func (f *fixture) expectSlots(want string) {
	f.t.Helper()
	if got, _ := f.slots(nightlySlots, nil, 100); got != want {
		f.t.Errorf("slots are %s, want %s", got, want)
	}
}

// Whatever is recorded again, and in whichever order: a final outcome stays, and the row that stands for
// the most slots.
func TestSlots_P6_RecordingMayBeRepeated(t *testing.T) {
	t.Parallel()
	f := setup(t)
	missed, grown := outcomeOf(0, 2, "Missed"), outcomeOf(0, 4, "Missed")
	buffered, started, replaced := outcomeOf(5, 5, "Buffered"), outcomeOf(5, 5, "Started"), outcomeOf(6, 6, "Buffered")
	started.Run = "nightly-1"
	f.record(missed, buffered)
	f.expectSlots("Buffered 5, Missed 0-2 x3")
	f.record(grown, buffered)
	f.expectSlots("Buffered 5, Missed 0-4 x5")
	f.record(started, replaced)
	f.record(missed, buffered) // by a manager that stood still
	f.expectSlots("Buffered 6, Started 5, Missed 0-4 x5")
	f.record(outcomeOf(6, 6, "SkippedOverlap"))
	f.expectSlots("SkippedOverlap 6, Started 5, Missed 0-4 x5")
	if run := f.value(`SELECT run FROM openworkflow.operator_schedule_slots WHERE reason = 'Started'`); run != "nightly-1" {
		t.Errorf("the run is %s", run)
	}
	before := f.value(`SELECT string_agg(concat(ctid, xmin, xmax), ' ' ORDER BY slot) FROM openworkflow.operator_schedule_slots`)
	f.record(grown, started, outcomeOf(6, 6, "SkippedOverlap"))
	if after := f.value(`SELECT string_agg(concat(ctid, xmin, xmax), ' ' ORDER BY slot) FROM openworkflow.operator_schedule_slots`); after != before {
		t.Errorf("rows that say the same were written or locked: %s, then %s", before, after)
	}
}

// Whoever may write the status of a schedule chooses what is recorded.
func TestSlots_P9_AnyStatusIsRecorded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	odd := outcomeOf(1, 1, "Missed")
	odd.Message, odd.Run = "a\x00b\xffc", strings.Repeat("r", 10_000)
	twice, final := outcomeOf(2, 2, "Buffered"), outcomeOf(2, 2, "Started")
	ancient := outcomeOf(0, 0, "Missed")
	ancient.Slot, ancient.Last = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	future := outcomeOf(3, 3, "Missed")
	future.Slot, future.Last, future.Slots = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), 2_000_000_000
	f.record(odd, final, twice, ancient, future)
	_, all := f.slots(nightlySlots, nil, 10)
	if len(all) != 3 || all[0].Slot.Year() != 9999 || all[1].Reason != "Started" || all[2].Message != "a\uFFFDb\uFFFDc" || len(all[2].Run) != 253 {
		t.Errorf("slots are %+v", all)
	}
	f.exec(`UPDATE openworkflow.operator_schedule_slots SET slot = '-infinity', last_slot = 'infinity', reason = repeat('x', 100000), slots = -1` +
		` WHERE reason = 'Started'`)
	if _, all = f.slots(nightlySlots, nil, 10); len(all) != 3 || len(all[0].Reason) != 64 {
		t.Errorf("slots are %+v", all)
	}
	if err := f.RecordSlots(t.Context(), nil, slotTTL); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestSlots_ListsSelectAndPagesMeet(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []string
	for i := range 12 { // of two schedules in turn, with equal times
		o := outcomeOf(i/2, i/2, "Started")
		o.Schedule.UID = fmt.Sprintf("uid-%d", i%2)
		if i%2 == 1 {
			o.Schedule.Name = "hourly"
		}
		f.record(o)
		want = append(want, o.Schedule.UID+o.Slot.String())
	}
	slices.Reverse(want)
	elsewhere := outcomeOf(1, 1, "Missed")
	elsewhere.Schedule.UID, elsewhere.Schedule.Namespace = "uid-3", "other"
	foreign := outcomeOf(1, 1, "Missed")
	foreign.Schedule.UID, foreign.Schedule.Cluster = "uid-4", "other"
	f.record(elsewhere, foreign)
	for _, limit := range []int{1, 5, 12, 100} {
		var got []string
		var after *store.SlotCursor
		for {
			_, page := f.slots(nightlySlots, after, limit)
			for _, o := range page {
				got = append(got, o.Schedule.UID+o.Slot.UTC().String())
			}
			if len(page) < limit {
				break
			}
			last := page[len(page)-1]
			after = &store.SlotCursor{Last: last.Last, UID: last.Schedule.UID, Slot: last.Slot}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: slots are %v, want %v", limit, got, want)
		}
	}
	f.record(outcomeOf(10, 20, "SkippedSuspended")) // of uid-1 and the name nightly
	for name, test := range map[string]struct {
		change func(*store.SlotFilter)
		want   string
	}{
		"a name":        {func(f *store.SlotFilter) { f.Schedule = "hourly" }, "Started 5, Started 4, Started 3, Started 2, Started 1, Started 0"},
		"a uid":         {func(f *store.SlotFilter) { f.UID, f.Schedule = "uid-1", "nightly" }, "SkippedSuspended 10-20 x11"},
		"no such name":  {func(f *store.SlotFilter) { f.Schedule = "none" }, ""},
		"no text":       {func(f *store.SlotFilter) { f.Schedule = "\x00" }, ""},
		"from the last": {func(f *store.SlotFilter) { f.From = outcomeOf(15, 15, "").Slot }, "SkippedSuspended 10-20 x11"},
		"an interval": {func(f *store.SlotFilter) { f.From, f.Before = outcomeOf(2, 2, "").Slot, outcomeOf(3, 3, "").Slot },
			"Started 2, Started 2"},
	} {
		filter := nightlySlots
		test.change(&filter)
		if got, _ := f.slots(filter, nil, 100); got != test.want {
			t.Errorf("%s: slots are %s, want %s", name, got, test.want)
		}
	}
	one, err := f.View(time.Second).Slot(t.Context(), "uid-1", outcomeOf(10, 10, "").Slot)
	if err != nil || one == nil || one.Slots != 11 || one.Schedule.Name != "nightly" || time.Since(one.RecordedAt).Abs() > time.Hour {
		t.Errorf("the slot is %+v, %v", one, err)
	}
	for _, uid := range []string{"uid-9", "\x00"} {
		if one, err = f.View(time.Second).Slot(t.Context(), uid, outcomeOf(10, 10, "").Slot); err != nil || one != nil {
			t.Errorf("of %q: %+v, %v", uid, one, err)
		}
	}
}

func TestSlots_RemovesTheOldest(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i := range 10 {
		f.record(outcomeOf(i, i, "Started"))
	}
	f.record(outcomeOf(10, 700, "SkippedSuspended"))
	f.exec(`UPDATE openworkflow.operator_schedule_slots SET slot = slot - interval '10 days', last_slot = last_slot - interval '10 days' WHERE slots = 1`)
	f.exec(`UPDATE openworkflow.operator_schedule_slots SET slot = slot - interval '10 days' WHERE slots > 1`)
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM openworkflow.operator_schedule_slots ORDER BY last_slot LIMIT 1 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{4, 4, 1, 0} { // one is locked
		if n, err := f.RemoveSlots(t.Context(), slotTTL, 4); err != nil || n != want {
			t.Errorf("turn %d has removed %d slots, %v, want %d", i, n, err, want)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := f.RemoveSlots(t.Context(), slotTTL, 4); err != nil || n != 1 {
		t.Errorf("the last turn has removed %d slots, %v", n, err)
	}
	if left := f.value(`SELECT string_agg(reason, ' ') FROM openworkflow.operator_schedule_slots`); left != "SkippedSuspended" {
		t.Errorf("left are %s", left)
	}
}

// Neither a list nor a removal nor recording costs more for a long history.
func TestPlans_SlotsReadNoHistory(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.operator_schedule_slots SET (autovacuum_enabled = off)`)
	f.exec(`INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, recorded_at)
	SELECT 'default', 'uid-' || i % 10, at, at, 1, 'cluster', 'shop', 'schedule-' || i % 10, 'Started', 'run-' || i, now()
	FROM generate_series(1, 30000) i, LATERAL (SELECT date_trunc('minute', now()) - i / 10 * interval '1 minute' AS at) at`)
	middle := &store.SlotCursor{Last: time.Now().Add(-20 * time.Hour), UID: "uid-5", Slot: time.Now().Add(-20 * time.Hour)}
	const limit = 100
	const recorded = 10
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			f.exec(`ANALYZE openworkflow.operator_schedule_slots`)
		}
		for _, after := range []*store.SlotCursor{nil, middle} {
			for name, test := range map[string]struct {
				filter store.SlotFilter
				index  string
			}{
				"all":        {nightlySlots, "operator_schedule_slots_last_idx"},
				"by name":    {store.SlotFilter{Cluster: "cluster", Namespace: "shop", Schedule: "schedule-3"}, "operator_schedule_slots_name_idx"},
				"by both":    {store.SlotFilter{Cluster: "cluster", Namespace: "shop", Schedule: "schedule-3", UID: "uid-3"}, "operator_schedule_slots_"},
				"of no name": {store.SlotFilter{Cluster: "cluster", Namespace: "shop", Schedule: "none"}, "operator_schedule_slots_name_idx"},
			} {
				sql, args := f.SlotsSQL(test.filter, after, limit)
				most := limit + 10
				if name == "by both" {
					most = 3010 // either index: at most the schedule's own
				}
				f.expectCost(name, f.explain(sql, args...), test.index, most)
			}
		}
		f.expectCost("removal", f.explain(f.RemoveSlotsSQL(), "default", slotTTL, limit), "operator_schedule_slots_last_idx", 2*limit+10)
		f.expectCost("no removal", f.explain(f.RemoveSlotsSQL(), "default", 30*slotTTL, limit), "operator_schedule_slots_last_idx", 10)
		var uids, clusters, namespaces, names, reasons []string
		var texts []*string
		var first []time.Time
		var counts []int
		for i := range recorded {
			uids, clusters, namespaces, names = append(uids, "uid-1"), append(clusters, "cluster"), append(namespaces, "shop"), append(names, "schedule-1")
			reasons, texts, counts = append(reasons, "Started"), append(texts, nil), append(counts, 1)
			first = append(first, time.Now().Truncate(time.Minute).Add(-time.Duration(i)*time.Minute))
		}
		f.expectCost("recording", f.explain(f.RecordSlotsSQL(), "default", uids, first, first, counts, clusters, namespaces, names, reasons, texts, texts, slotTTL),
			"operator_schedule_slots_pkey", 2*recorded+10)
	}
}
