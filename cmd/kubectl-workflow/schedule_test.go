package main

import (
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi/dataapitest"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

// schedule creates a schedule with a slot at 02:30 in Berlin, and the outcomes of its newest slots.
func (w *world) schedule(name string) *v1alpha1.WorkflowSchedule {
	w.t.Helper()
	s := &v1alpha1.WorkflowSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: name},
		Spec: v1alpha1.WorkflowScheduleSpec{
			Schedules: []string{"30 2 * * *"}, TimeZone: "Europe/Berlin", OverlapPolicy: "Forbid",
			RunTemplate: v1alpha1.RunTemplate{WorkflowName: "report", ScheduledTimeField: "until"},
		},
	}
	w.Create(s)
	return s
}

// slot is a time at which the schedule of the tests has one, some days before noon.
func slot(daysAgo int) *metav1.Time {
	return &metav1.Time{Time: time.Date(2026, 1, 1, 1, 30, 0, 0, time.UTC).AddDate(0, 0, -daysAgo)}
}

// observed sets the status of a schedule as a manager does.
func (w *world) observed(s *v1alpha1.WorkflowSchedule) {
	w.t.Helper()
	s.Status = v1alpha1.WorkflowScheduleStatus{
		ObservedGeneration: s.Generation, DecidedUntil: slot(0), NextScheduleTime: slot(-1), LastScheduleTime: slot(3),
		Failures: new(int32(2)), Active: []string{"nightly-report-20251229-013000"},
		Outcomes: []v1alpha1.SlotOutcome{
			{Time: slot(9), Reason: "Missed", Message: "the slot was missed: a WorkflowRun exists that this schedule does not own"},
			{Time: slot(8), Until: slot(6), Count: 3, Reason: "SkippedSuspended"},
			{Time: slot(5), Reason: "Missed"}, {Time: slot(4), Reason: "Coalesced"},
			{Time: slot(3), Reason: "Started", Run: "nightly-report-20251229-013000"},
			{Time: slot(2), Until: slot(0), Count: 3, Reason: "SkippedOverlap"},
		},
		Backfills: []v1alpha1.BackfillStatus{
			{Name: "december", State: v1alpha1.BackfillRunning, Slots: 31, Started: 12, Skipped: 2, Completed: 8, Failed: 1, Canceled: 1, Active: []string{"a", "b"}},
			{Name: "november", State: v1alpha1.BackfillWaiting, Message: `waits for the backfill "december"`},
		},
		Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonActive, Message: "starts runs when they are due",
			LastTransitionTime: metav1.Time{Time: noon.Add(-48 * time.Hour)}, ObservedGeneration: s.Generation,
		}},
	}
	if err := cluster.Admin.Status().Update(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) readSchedule(name string) *v1alpha1.WorkflowSchedule {
	w.t.Helper()
	s := &v1alpha1.WorkflowSchedule{}
	if err := cluster.Admin.Get(w.t.Context(), types.NamespacedName{Namespace: w.Namespace, Name: name}, s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// scheduler is a user who may edit schedules and runs.
func (w *world) scheduler() {
	w.t.Helper()
	w.kubeconfig = w.user("scheduler", append(editorRules, rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"workflowschedules"}, Verbs: []string{"get", "list", "patch"},
	})...)
}

func TestSchedule_TriggerStartsARunNow(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	w.golden("schedule_trigger_table", w.run("schedule", "trigger", "nightly-report").out)
	run := w.workflowRun("nightly-report-20260101-120000-manual")
	if !metav1.IsControlledBy(run, s) || run.Spec.WorkflowName != "report" || string(run.Spec.Input.Raw) != `{"until":"2026-01-01T12:00:00Z"}` ||
		run.Labels[v1alpha1.LabelSchedule] != "nightly-report" {
		t.Errorf("the run is %+v", run)
	}
	// Another one in the same second has a name of its own.
	w.golden("schedule_trigger_name", w.run("schedule", "trigger", "schedule/nightly-report", "-o", "name").out)
}

// TestSchedule_InDatabaseTriggersByTheDataAPI: without an object. The manager alone counts a backfill.
func TestSchedule_InDatabaseTriggersByTheDataAPI(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := &v1alpha1.WorkflowSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "minutely"},
		Spec: v1alpha1.WorkflowScheduleSpec{
			Schedules: []string{"* * * * *"}, Runs: schedulespec.InDatabase, RunTemplate: v1alpha1.RunTemplate{WorkflowName: "report", ScheduledTimeField: "until"},
		},
	}
	w.Create(s)
	name := strings.TrimSpace(w.run("schedule", "trigger", "minutely", "-o", "name").out)
	id, isRun := strings.CutPrefix(name, "run.data.openworkflow.dev/")
	row, err := w.GetRuns(t.Context(), []string{id})
	if err != nil || !isRun || row[id] == nil || row[id].WorkflowName != "report" || string(row[id].Input) != `{"until": "2026-01-01T12:00:00Z"}` {
		t.Errorf("%s is %+v, %v", name, row, err)
	}
	w.fails(codeError, "the runs of WorkflowSchedule minutely are in the database, and only the manager tells which slots have one: add a request to spec.backfills with dryRun: true",
		"schedule", "backfill", "minutely", "--from", "24h", "--dry-run")
}

func TestSchedule_PauseAndResumeSetTheSpec(t *testing.T) {
	w := setup(t)
	w.scheduler()
	w.schedule("nightly-report")
	if got := w.run("schedule", "pause", "nightly-report"); got.out != "workflowschedule.openworkflow.dev/nightly-report paused\n" || !*w.readSchedule("nightly-report").Spec.Suspend {
		t.Errorf("pause: %+v", got)
	}
	if got := w.run("schedule", "resume", "nightly-report", "-o", "name"); got.out != "workflowschedule.openworkflow.dev/nightly-report\n" || *w.readSchedule("nightly-report").Spec.Suspend {
		t.Errorf("resume: %+v", got)
	}
}

func TestSchedule_BackfillAddsARequest(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	run, err := schedulespec.Run(s, slot(3).Time, "")
	if err != nil {
		t.Fatal(err)
	}
	w.Create(run)
	interval := []string{"schedule", "backfill", "nightly-report", "--from", "2025-12-25T00:00:00Z", "--to", "2025-12-31T00:00:00Z"}
	w.golden("schedule_backfill_dry", w.run(append(interval, "--dry-run")...).out)
	if list := w.readSchedule("nightly-report").Spec.Backfills; len(list) > 0 {
		t.Errorf("a dry run has added %+v", list)
	}
	w.golden("schedule_backfill_table", w.run(append(interval, "--max-parallel", "2", "--reprocess", "Failed", "--overlap-policy", "Forbid")...).out)
	list := w.readSchedule("nightly-report").Spec.Backfills
	if len(list) != 1 || list[0].Name != "20251225-000000-20251231-000000" || list[0].MaxParallel != 2 || list[0].Reprocess != "Failed" || list[0].OverlapPolicy != "Forbid" {
		t.Errorf("the request is %+v", list)
	}
	w.fails(codeError, `WorkflowSchedule nightly-report has a backfill "20251225-000000-20251231-000000" already, which is carried out once: give --name to do it again`, interval...)
	if got := w.run("schedule", "backfill", "nightly-report", "--from", "24h", "--name", "yesterday"); got.code != codeDone {
		t.Errorf("backfill of the last day: %+v", got)
	}
	if list := w.readSchedule("nightly-report").Spec.Backfills; len(list) != 2 || !list[1].StartAt.Time.Equal(noon.Add(-24*time.Hour)) || !list[1].EndAt.Time.Equal(noon) {
		t.Errorf("the requests are %+v", list)
	}
}

// TestSchedule_BackfillKeepsTheOthers: a request does not change, not even by the fraction of a second.
func TestSchedule_BackfillKeepsTheOthers(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	fraction := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"backfills":[{"name":"fraction","startAt":"2025-12-24T23:00:00.5-01:00","endAt":"2025-12-31T00:00:00.25Z"}]}}`))
	if err := cluster.Admin.Patch(t.Context(), s, fraction); err != nil {
		t.Fatal(err)
	}
	if got := w.run("schedule", "backfill", "nightly-report", "--from", "24h", "--name", "more"); got.code != codeDone {
		t.Errorf("a second backfill: %+v", got)
	}
	list := w.readSchedule("nightly-report").Spec.Backfills
	if len(list) != 2 || list[0].StartAt.Nanosecond() != 5e8 || list[0].EndAt.Nanosecond() != 25e7 || list[1].Name != "more" {
		t.Errorf("the requests are %+v", list)
	}
}

// TestSchedule_BackfillMakesRoom: the oldest request that is done goes.
func TestSchedule_BackfillMakesRoom(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	for i := range maxBackfills {
		s.Spec.Backfills = append(s.Spec.Backfills, v1alpha1.Backfill{Name: "b" + string(rune('a'+i)), StartAt: slot(9), EndAt: slot(8)})
	}
	if err := cluster.Admin.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	full := "WorkflowSchedule nightly-report has 16 backfills that are not done, and takes no more: wait, or remove one from spec.backfills"
	w.fails(codeError, full, "schedule", "backfill", "nightly-report", "--from", "24h", "--name", "more")
	s.Status.Backfills = []v1alpha1.BackfillStatus{{Name: "bc", State: v1alpha1.BackfillCompleted}, {Name: "bd", State: v1alpha1.BackfillInvalid}}
	if err := cluster.Admin.Status().Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.run("schedule", "backfill", "nightly-report", "--from", "24h", "--name", "more")
	var names []string
	for _, b := range w.readSchedule("nightly-report").Spec.Backfills {
		names = append(names, b.Name)
	}
	if got := strings.Join(names, " "); got != "ba bb bd be bf bg bh bi bj bk bl bm bn bo bp more" {
		t.Errorf("the requests are %s", got)
	}
}

func TestSchedule_WhyTellsWhatHasHappenedToSlots(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	w.golden("schedule_why_unseen", w.run("why", "schedule/nightly-report").out)
	w.observed(s)
	w.golden("schedule_why_table", w.run("why", "schedule/nightly-report").out)
	if got := w.run("why", "wfs/nightly-report", "-o", "name"); got.out != "workflowschedule.openworkflow.dev/nightly-report\n" {
		t.Errorf("-o name: %+v", got)
	}
	if got := w.run("why", "workflowschedule/nightly-report", "-o", "jsonpath={.status.outcomes[0].reason}"); got.out != "Missed" {
		t.Errorf("-o jsonpath: %+v", got)
	}
	if got := w.run("__complete", "schedule", "pause", ""); !strings.HasPrefix(got.out, "nightly-report\n") {
		t.Errorf("completes to %q", got.out)
	}
}

// storedSlots stores outcomes of a schedule, one a day before those in its status and the newest of these,
// which had another outcome then.
func (w *world) storedSlots(s *v1alpha1.WorkflowSchedule, days int) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, message, recorded_at)
	SELECT $1, $2, at, at, 1, $3, $1, $4, 'Started', 'nightly-report-' || to_char(at AT TIME ZONE 'UTC', 'YYYYMMDD-HH24MISS'), NULL, timestamptz '2026-01-01 10:00:00Z'
	FROM generate_series(0, $5::int - 1) i, LATERAL (SELECT $6::timestamptz - i * interval '1 day' AS at) at`,
		w.Namespace, string(s.UID), dataapitest.ClusterUID, s.Name, days, slot(10).Time)
	w.exec(`INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, recorded_at)
	VALUES ($1, $2, $3, $3, 1, $4, $1, $5, 'SkippedOverlap', timestamptz '2026-01-01 10:00:00Z'), ($1, 'another', $3, $3, 1, $4, $1, $5, 'Missed', now())`,
		w.Namespace, string(s.UID), slot(2).Time, dataapitest.ClusterUID, s.Name)
}

// TestSchedule_WhyTellsOfAllSlots: from the data API, with those that it does not have yet.
func TestSchedule_WhyTellsOfAllSlots(t *testing.T) {
	w := setup(t)
	w.scheduler()
	s := w.schedule("nightly-report")
	w.observed(s)
	w.storedSlots(s, 1200)
	slots := func(args ...string) (lines []string, note string) {
		t.Helper()
		got := w.run(append([]string{"why", "schedule/nightly-report"}, args...)...)
		if got.code != codeDone {
			t.Fatalf("%v: %+v", args, got)
		}
		for line := range strings.Lines(got.out) {
			if text, ok := strings.CutPrefix(line, "Slot:"); ok {
				lines = append(lines, strings.TrimSpace(text))
			}
		}
		return lines, got.errOut
	}
	w.golden("schedule_why_slots", w.run("why", "schedule/nightly-report", "--limit", "8").out)
	lines, note := slots("--limit", "8")
	if len(lines) != 8 || !strings.Contains(lines[0], "3 slots") || !strings.HasPrefix(lines[6], "2025-12-22T01:30:00Z Started: run") ||
		note != "There are slots before these: see more with --limit, or all with --limit 0.\n" {
		t.Errorf("slots are %q, note is %q", lines, note)
	}
	if lines, note = slots("--limit", "0"); len(lines) != 1206 || note != "" {
		t.Errorf("%d slots, note is %q", len(lines), note)
	}
	if lines, note = slots("--limit", "2"); len(lines) != 2 || note == "" {
		t.Errorf("slots are %q, note is %q", lines, note)
	}
	// Noon of 21 December: the slot of that day is before.
	if lines, note = slots("--since", "264h"); len(lines) != 7 || !strings.HasPrefix(lines[6], "2025-12-22T01:30:00Z Started") || note != "" {
		t.Errorf("slots are %q, note is %q", lines, note)
	}
	if lines, _ = slots(); len(lines) != 6 {
		t.Errorf("slots without a flag are %q", lines)
	}
	w.golden("schedule_why_slots_yaml", strings.ReplaceAll(w.run("why", "schedule/nightly-report", "--since", "264h", "-o", "yaml").out, string(s.UID), "UID"))
	w.golden("schedule_why_slots_name", strings.ReplaceAll(w.run("why", "schedule/nightly-report", "--limit", "3", "-o", "name").out, string(s.UID), "UID"))

	w.fails(codeError, "--limit -1: give 0 for all outcomes, or a positive number", "why", "schedule/nightly-report", "--limit", "-1")
	w.fails(codeError, "--since -1h0m0s: give a positive duration, such as 24h", "why", "schedule/nightly-report", "--since", "-1h")
	w.fails(codeError, "--limit and --since select slots of a schedule: name one, as schedule/NAME", "why", "order-1001", "--since", "1h")
	w.fails(codeNotFound, `read WorkflowSchedule none: workflowschedules.openworkflow.dev "none" not found`, "why", "schedule/none", "--limit", "1")
	w.kubeconfig = w.user("no-slots", rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"workflowschedules"}, Verbs: []string{"get"},
	})
	w.fails(codeForbidden, "The ClusterRoles view and edit of a namespace allow it", "why", "schedule/nightly-report", "--limit", "1")
}

func TestSchedule_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.scheduler()
	w.schedule("nightly-report")
	backfill := func(flags ...string) []string {
		return append([]string{"schedule", "backfill", "nightly-report"}, flags...)
	}
	for _, test := range []struct {
		code int
		want string
		args []string
	}{
		{codeNotFound, `read WorkflowSchedule none: workflowschedules.openworkflow.dev "none" not found`, []string{"schedule", "trigger", "none"}},
		{codeNotFound, `change WorkflowSchedule none: workflowschedules.openworkflow.dev "none" not found`, []string{"schedule", "pause", "none"}},
		{codeNotFound, `read WorkflowSchedule none: workflowschedules.openworkflow.dev "none" not found`, []string{"why", "schedule/none"}},
		{codeError, `"run/x" names no WorkflowSchedule: give its name`, []string{"schedule", "resume", "run/x"}},
		{codeError, `"schedule/" names no WorkflowSchedule: give its name`, []string{"why", "schedule/"}},
		{codeError, "give --from, the earliest slot, such as 2026-01-01T00:00:00Z or 24h", backfill()},
		{codeError, `--from "yesterday" is neither a time such as 2026-01-01T00:00:00Z nor a time ago such as 24h`, backfill("--from", "yesterday")},
		{codeError, `--to "-1h" is neither a time`, backfill("--from", "24h", "--to", "-1h")},
		{codeError, "--to is before --from: no slot is between them", backfill("--from", "1h", "--to", "2h")},
		{codeError, "--to is in the future: a backfill is for slots that have passed; later ones start by themselves", backfill("--from", "1h", "--to", "2027-01-01T00:00:00Z")},
		{codeError, "--max-parallel is a number from 1 to 100", backfill("--from", "1h", "--max-parallel", "101")},
		{codeError, `supported values: "None", "Failed", "All"`, backfill("--from", "1h", "--reprocess", "some")},
		{codeError, `supported values: "Allow", "Forbid"`, backfill("--from", "1h", "--overlap-policy", "Replace", "--dry-run")},
		{codeError, "use lower-case letters, digits and -", backfill("--from", "1h", "--name", "A B")},
		{codeError, `unknown output format "xml"`, []string{"schedule", "trigger", "nightly-report", "-o", "xml"}},
	} {
		w.fails(test.code, test.want, test.args...)
	}
	w.kubeconfig = w.user("stranger")
	w.fails(codeForbidden, "The ClusterRoles view and edit of a namespace allow it", "why", "schedule/nightly-report")
	w.fails(codeForbidden, "The ClusterRoles view and edit of a namespace allow it", "schedule", "pause", "nightly-report")
}
