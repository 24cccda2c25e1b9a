package store

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ScheduleKey identifies a WorkflowSchedule.
type ScheduleKey struct {
	// Cluster is the uid of the cluster's kube-system namespace.
	Cluster, Namespace, Name, UID string
}

// SlotOutcome is what happened to a slot of a schedule, or to several that follow each other.
type SlotOutcome struct {
	Schedule ScheduleKey
	// Slot is the first slot, and Last the last one. Of a single slot they are equal.
	Slot, Last time.Time
	// Slots is the number of slots, at least 1.
	Slots int
	// Reason is one of those of package schedule.
	Reason string
	// Run is the run that was started, empty for none, and Message says what Reason does not.
	Run, Message string
	// RecordedAt is when the row was last written, by the server's clock.
	RecordedAt time.Time
}

// buffered is the one reason that is not final, and slotBuffered is that in SQL.
const (
	buffered     = "Buffered"
	slotBuffered = `'` + buffered + `'`
)

// Rank is larger for a final outcome than for one that is not.
func (o *SlotOutcome) Rank() int {
	if o.Reason == buffered {
		return 0
	}
	return 1
}

// recordSlotsSQL stores outcomes that are new, and changes those that say more now: a slot that was
// buffered has its final outcome, or an outcome stands for more slots. Rows that say the same are read
// and not written: a status repeats ten outcomes with each new one. Primary key, in its order, so that
// two managers that do the same do not lock each other out.
const recordSlotsSQL = `
INSERT INTO {schema}.operator_schedule_slots AS s (
	namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, message, recorded_at
)
SELECT n.*, now()
FROM (
	SELECT $1::text AS namespace_id, n.*
	FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
		n (schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, message)
	WHERE n.last_slot >= now() - $12::interval
	OFFSET 0 -- stays a table, see idTable
) n
WHERE NOT EXISTS (
	SELECT
	FROM {schema}.operator_schedule_slots k
	WHERE k.namespace_id = n.namespace_id AND k.schedule_uid = n.schedule_uid AND k.slot = n.slot
		AND k.last_slot >= n.last_slot AND (k.reason <> ` + slotBuffered + ` OR n.reason = ` + slotBuffered + `)
	OFFSET 0
)
ORDER BY n.schedule_uid, n.slot
ON CONFLICT (namespace_id, schedule_uid, slot) DO UPDATE
SET last_slot     = excluded.last_slot,
	slots         = excluded.slots,
	schedule_name = excluded.schedule_name,
	reason        = excluded.reason,
	run           = excluded.run,
	message       = excluded.message,
	recorded_at   = excluded.recorded_at
WHERE excluded.last_slot > s.last_slot OR s.reason = ` + slotBuffered + ` AND excluded.reason <> ` + slotBuffered

// RecordSlots stores outcomes, but those whose last slot is longer ago than ttl. It may be repeated, and
// called with outcomes that are older than what is stored: a final outcome stays, and Buffered replaces
// none. All are stored, or none.
func (s *Store) RecordSlots(ctx context.Context, outcomes []SlotOutcome, ttl time.Duration) error {
	if len(outcomes) == 0 {
		return nil
	}
	n := len(outcomes)
	uids, clusters, namespaces, names := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	reasons, runs, messages := make([]string, n), make([]*string, n), make([]*string, n)
	first, last, counts := make([]time.Time, n), make([]time.Time, n), make([]int, n)
	for i, o := range distinctSlots(outcomes) {
		key := o.Schedule
		uids[i], clusters[i], namespaces[i], names[i] = key.UID, key.Cluster, key.Namespace, key.Name
		first[i], last[i], counts[i] = o.Slot, o.Last, o.Slots
		reasons[i], runs[i], messages[i] = o.Reason, storedText(o.Run), storedText(o.Message)
		n = i + 1
	}
	_, err := s.pool.Exec(ctx, s.sql(recordSlotsSQL), s.namespace, uids[:n], first[:n], last[:n], counts[:n],
		clusters[:n], namespaces[:n], names[:n], reasons[:n], runs[:n], messages[:n], ttl)
	return Classify(err)
}

// distinctSlots leaves one outcome of each slot, the later one of the list that is final if there is
// one. A statement can write a row only once.
func distinctSlots(outcomes []SlotOutcome) []SlotOutcome {
	outcomes = slices.Clone(outcomes)
	slices.Reverse(outcomes)
	slices.SortStableFunc(outcomes, func(a, b SlotOutcome) int {
		return cmp.Or(strings.Compare(a.Schedule.UID, b.Schedule.UID), a.Slot.Compare(b.Slot), b.Rank()-a.Rank())
	})
	return slices.CompactFunc(outcomes, func(a, b SlotOutcome) bool { return a.Schedule.UID == b.Schedule.UID && a.Slot.Equal(b.Slot) })
}

// storedText returns a text as Postgres can store it, nil for none: whoever may write the status of a
// schedule chooses it.
func storedText(text string) *string {
	if text == "" {
		return nil
	}
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	return &text
}

// removeSlotsSQL reads the oldest of operator_schedule_slots_last_idx. It waits for no lock.
const removeSlotsSQL = `
DELETE FROM {schema}.operator_schedule_slots s
USING (
	SELECT o.namespace_id, o.schedule_uid, o.slot
	FROM {schema}.operator_schedule_slots o
	WHERE o.namespace_id = $1 AND o.last_slot < now() - $2::interval
	ORDER BY o.last_slot
	LIMIT $3
	FOR UPDATE SKIP LOCKED
) o
WHERE s.namespace_id = o.namespace_id AND s.schedule_uid = o.schedule_uid AND s.slot = o.slot`

// RemoveSlots removes up to limit of the oldest outcomes whose last slot is longer ago than ttl. It
// returns how many it has removed.
func (s *Store) RemoveSlots(ctx context.Context, ttl time.Duration, limit int) (removed int, err error) {
	tag, err := s.pool.Exec(ctx, s.sql(removeSlotsSQL), s.namespace, ttl, limit)
	return int(tag.RowsAffected()), Classify(err)
}

// SlotFilter selects outcomes of the schedules of one namespace.
type SlotFilter struct {
	// Cluster and Namespace are those of the schedules.
	Cluster, Namespace string
	// Schedule is the name of the only schedule, and UID its uid. Empty means any.
	Schedule, UID string
	// From and Before bound the last slot: from is included, before is not. Zero means no bound.
	From, Before time.Time
}

// SlotCursor is a position in a list of outcomes.
type SlotCursor struct {
	Last time.Time
	UID  string
	Slot time.Time
}

// slotColumns are those of a row s, whoever has written it.
const slotColumns = `left(s.schedule_uid, 253), s.slot, s.last_slot, s.slots, left(s.cluster, 253), left(s.namespace, 253), left(s.schedule_name, 253),
	left(s.reason, 64), left(coalesce(s.run, ''), 253), left(coalesce(s.message, ''), 1024), s.recorded_at`

// viewSlotsSQL reads operator_schedule_slots_last_idx or, with a name, operator_schedule_slots_name_idx
// in its order, from the cursor on.
const viewSlotsSQL = `
SELECT ` + slotColumns + `
FROM {schema}.operator_schedule_slots s
WHERE s.namespace_id = $1 AND s.cluster = $3 AND s.namespace = $4 {conditions}
ORDER BY s.last_slot DESC, s.schedule_uid DESC, s.slot DESC
LIMIT $2`

// Slots returns a page of up to limit of the outcomes that the filter selects, newest first, after the
// cursor if there is one.
func (v *View) Slots(ctx context.Context, f SlotFilter, after *SlotCursor, limit int) (ViewPage[SlotOutcome], error) {
	if !storableID(f.Schedule) || !storableID(f.UID) || after != nil && !storableID(after.UID) {
		return ViewPage[SlotOutcome]{}, nil
	}
	q, args := v.store.slotsQuery(f, after, limit+1)
	return readPage(ctx, v, limit, scanSlot, q, args)
}

// slotsQuery returns the statement of Slots, and its arguments.
func (s *Store) slotsQuery(f SlotFilter, after *SlotCursor, limit int) (sql string, args []any) {
	q := viewQuery{args: []any{s.namespace, limit, f.Cluster, f.Namespace}}
	conditions := ""
	if f.Schedule != "" {
		conditions += " AND s.schedule_name = " + q.arg(f.Schedule)
	}
	if f.UID != "" {
		conditions += " AND s.schedule_uid = " + q.arg(f.UID)
	}
	if !f.From.IsZero() {
		conditions += " AND s.last_slot >= " + q.arg(f.From)
	}
	if !f.Before.IsZero() {
		conditions += " AND s.last_slot < " + q.arg(f.Before)
	}
	if after != nil {
		conditions += " AND (s.last_slot, s.schedule_uid, s.slot) < (" + strings.Join([]string{q.arg(after.Last), q.arg(after.UID), q.arg(after.Slot)}, ", ") + ")"
	}
	return s.sql(strings.Replace(viewSlotsSQL, "{conditions}", conditions, 1)), q.args
}

// viewSlotSQL uses the primary key.
const viewSlotSQL = `
SELECT ` + slotColumns + `
FROM {schema}.operator_schedule_slots s
WHERE s.namespace_id = $1 AND s.schedule_uid = $2 AND s.slot = $3`

// Slot returns the outcome of a slot, or of several that begin with it, nil if none is stored.
func (v *View) Slot(ctx context.Context, uid string, slot time.Time) (*SlotOutcome, error) {
	if !storableID(uid) {
		return nil, nil
	}
	found, err := readPage(ctx, v, 1, scanSlot, viewSlotSQL, []any{v.store.namespace, uid, slot})
	if err != nil || len(found.Items) == 0 {
		return nil, err
	}
	return &found.Items[0], nil
}

func scanSlot(row pgx.CollectableRow) (o SlotOutcome, err error) {
	key := &o.Schedule
	err = row.Scan(&key.UID, &o.Slot, &o.Last, &o.Slots, &key.Cluster, &key.Namespace, &key.Name, &o.Reason, &o.Run, &o.Message, &o.RecordedAt)
	return o, err
}
