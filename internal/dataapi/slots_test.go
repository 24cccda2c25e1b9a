package dataapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// slots stores n outcomes of the schedule nightly, one an hour from 2026 on: runs that were started and,
// each third, five slots that were skipped.
func (w *world) slots(url string, from, n int) {
	w.t.Helper()
	testpgExec(w.t, url, `INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, message, recorded_at)
	SELECT $1, 'uid-1', at, at + CASE WHEN i % 3 = 2 THEN interval '40 minutes' ELSE interval '0' END, CASE WHEN i % 3 = 2 THEN 5 ELSE 1 END,
		$2, $1, 'nightly', CASE WHEN i % 3 = 2 THEN 'SkippedOverlap' ELSE 'Started' END, CASE WHEN i % 3 < 2 THEN 'nightly-' || i END, NULL, timestamptz '2026-01-02'
	FROM generate_series($3::int, $3::int + $4::int - 1) i, LATERAL (SELECT timestamptz '2026-01-01 00:00:00Z' + i * interval '1 hour' AS at) at`,
		w.namespace, clusterUID, from, n)
}

func (w *world) listSlots(c *rest.RESTClient, params ...string) (list datav1alpha1.ScheduleSlotList, err error) {
	request := c.Get().Namespace(w.namespace).Resource("scheduleslots")
	for i := 0; i < len(params); i += 2 {
		request = request.Param(params[i], params[i+1])
	}
	err = request.Do(w.t.Context()).Into(&list)
	return list, err
}

// hours returns the hours of slots, of those that are several with their number.
func (w *world) hours(c *rest.RESTClient, params ...string) (text, next string) {
	w.t.Helper()
	list, err := w.listSlots(c, params...)
	if err != nil {
		w.t.Fatalf("list slots %v: %v", params, err)
	}
	var hours []string
	for _, s := range list.Items {
		hour := fmt.Sprint(int(s.Spec.Time.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Hours()))
		if s.Spec.Until != nil {
			hour += fmt.Sprintf("x%d", s.Spec.Count)
		}
		hours = append(hours, hour)
	}
	return strings.Join(hours, " "), list.Continue
}

func TestScheduleSlots_ListsPageByPage(t *testing.T) {
	w := setup(t)
	w.slots(w.url, 0, 8)
	other := testpgNew(t)
	w.backend("other", other)
	w.slots(other, 7, 3) // the schedule got another Backend: 7 is in both
	w.exec(`UPDATE openworkflow.operator_schedule_slots SET reason = 'Buffered', run = NULL WHERE run = 'nightly-7'`)
	w.exec(`INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, recorded_at)
	VALUES ($1, 'uid-2', '2026-01-01T03:00:00Z', '2026-01-01T03:00:00Z', 1, $2, $1, 'hourly', 'Missed', now()),
		($1, 'uid-3', '2026-01-01T03:00:00Z', '2026-01-01T03:00:00Z', 1, $2, 'elsewhere', 'nightly', 'Missed', now()),
		($1, 'uid-4', '2026-01-01T03:00:00Z', '2026-01-01T03:00:00Z', 1, 'another', $1, 'nightly', 'Missed', now())`, w.namespace, clusterUID)
	c := w.user()
	for selector, want := range map[string]string{
		"":                                "9 8x5 7 6 5x5 4 3 3 2x5 1 0",
		"spec.schedule=nightly":           "9 8x5 7 6 5x5 4 3 2x5 1 0",
		"spec.schedule=hourly":            "3",
		"spec.scheduleUID=uid-2":          "3",
		"spec.schedule=none":              "",
		"spec.backend=other":              "9 8x5 7",
		"metadata.namespace=elsewhere":    "",
		"slotFrom=2026-01-01T08:30:00Z":   "9 8x5", // the last of five
		"slotBefore=2026-01-01T03:00:00Z": "2x5 1 0",
		"spec.schedule=nightly,spec.scheduleUID=uid-1,slotFrom=2026-01-01T01:00:00Z,slotBefore=2026-01-01T04:00:00Z": "3 2x5 1",
	} {
		if got, _ := w.hours(c, "fieldSelector", selector); got != want {
			t.Errorf("%s: slots are %s, want %s", selector, got, want)
		}
	}
	var pages []string
	for next := ""; ; {
		var page string
		params := []string{"limit", "4", "fieldSelector", "spec.schedule=nightly"}
		if next != "" {
			params = append(params, "continue", next)
		}
		page, next = w.hours(c, params...)
		pages = append(pages, page)
		if next == "" {
			break
		}
	}
	if got := strings.Join(pages, "|"); got != "9 8x5 7 6|5x5 4 3 2x5|1 0" {
		t.Errorf("pages are %s", got)
	}
	list, err := w.listSlots(c, "limit", "3")
	if err != nil {
		t.Fatal(err)
	}
	if s := list.Items[2]; s.Status.Reason != "Started" || s.Status.Run != "nightly-7" || s.Spec.Backend != "other" { // the final one
		t.Errorf("the slot that two databases have is %+v", s)
	}
}

func TestScheduleSlots_GetReadsByName(t *testing.T) {
	w := setup(t)
	w.slots(w.url, 0, 3)
	w.exec(`UPDATE openworkflow.operator_schedule_slots SET message = 'why', run = 'taken' WHERE slots = 5`)
	c := w.user()
	get := func(name string) (s datav1alpha1.ScheduleSlot, err error) {
		err = c.Get().Namespace(w.namespace).Resource("scheduleslots").Name(name).Do(t.Context()).Into(&s)
		return s, err
	}
	s, err := get("uid-1.20260101-020000")
	if err != nil || s.Spec.Schedule != "nightly" || s.Spec.ScheduleUID != "uid-1" || s.Spec.Count != 5 || s.Spec.Backend != "default" ||
		s.Spec.Until.UTC().Format(time.RFC3339) != "2026-01-01T02:40:00Z" || s.Status.Reason != "SkippedOverlap" || s.Status.Message != "why" ||
		s.Status.Run != "taken" || s.Status.RecordedAt.UTC().Day() != 2 || s.Name != "uid-1.20260101-020000" {
		t.Errorf("the slot is %+v, %v", s, err)
	}
	var table metav1.Table
	raw := c.Get().Namespace(w.namespace).Resource("scheduleslots").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context())
	if err := raw.Into(&table); err != nil || len(table.Rows) != 3 || fmt.Sprint(table.Rows[0].Cells[:6]) != "[nightly 2026-01-01T02:00:00Z 2026-01-01T02:40:00Z 5 SkippedOverlap taken]" {
		t.Errorf("the table is %+v, %v", table.Rows, err)
	}
	w.exec(`UPDATE openworkflow.operator_schedule_slots SET namespace = 'elsewhere' WHERE run = 'nightly-0'`)
	for _, name := range []string{"uid-1.20260101-000000", "uid-1", "uid-1.", "uid-1.tomorrow", "uid-9.20260101-020000"} {
		if _, err := get(name); !apierrors.IsNotFound(err) {
			t.Errorf("get %s: %v", name, err)
		}
	}
}

func TestScheduleSlots_P9_RightsAreTheViewers(t *testing.T) {
	w := setup(t)
	w.slots(w.url, 0, 3)
	viewer := "viewer-" + w.namespace
	w.grant(viewer, rule([]string{"get", "list"}, "scheduleslots"))
	if got, _ := w.hours(w.as(viewer)); got != "2x5 1 0" {
		t.Errorf("a viewer sees %s", got)
	}
	if _, err := w.listSlots(w.as("stranger-" + w.namespace)); !apierrors.IsForbidden(err) {
		t.Errorf("without rights: %v", err)
	}
	c := w.user()
	for verb, err := range map[string]error{
		"create": c.Post().Namespace(w.namespace).Resource("scheduleslots").Body(&datav1alpha1.ScheduleSlot{}).Do(t.Context()).Error(),
		"delete": c.Delete().Namespace(w.namespace).Resource("scheduleslots").Name("uid-1.20260101-020000").Do(t.Context()).Error(),
	} {
		if !apierrors.IsMethodNotSupported(err) {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

func TestScheduleSlots_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.slots(w.url, 0, 3)
	c := w.user()
	for _, test := range []struct {
		params []string
		want   string
	}{
		{[]string{"fieldSelector", "status.reason=Started"},
			`scheduleslots cannot be selected by "status.reason": use one of spec.schedule, spec.scheduleUID, spec.backend, slotFrom, slotBefore, metadata.namespace`},
		{[]string{"fieldSelector", "spec.schedule!=x"}, `spec.schedule!=x: scheduleslots are selected by =`},
		{[]string{"fieldSelector", "slotFrom=yesterday"}, `slotFrom=yesterday: want a time such as 2026-01-31T15:04:05Z`},
		{[]string{"fieldSelector", "slotBefore=1"}, `slotBefore=1: want a time such as 2026-01-31T15:04:05Z`},
		{[]string{"labelSelector", "a=b"}, `scheduleslots have no labels: select them by fields`},
		{[]string{"continue", "x"}, `the value of continue is not one of this list: start from the first page`},
		{[]string{"fieldSelector", "spec.backend=none"}, `Backend "none"`},
	} {
		if _, err := w.listSlots(c, test.params...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %s", test.params, err, test.want)
		}
	}
	admin := "admin-" + w.namespace
	w.grant(admin, rule([]string{"*"}, "*"))
	err := w.as(admin).Get().Resource("scheduleslots").Do(t.Context()).Error()
	if err == nil || !apierrors.IsForbidden(err) {
		t.Errorf("all namespaces: %v", err)
	}
	// A database of an earlier release has none.
	w.exec(`DROP TABLE openworkflow.operator_schedule_slots`)
	if got, _ := w.hours(c); got != "" {
		t.Errorf("without the table: %s", got)
	}
}

// TestRuns_NameTheirSchedule: those that it has started without an object, in this namespace and cluster.
func TestRuns_NameTheirSchedule(t *testing.T) {
	w := setup(t)
	w.history(4)
	for id, schedule := range map[string]string{
		"r-01": fmt.Sprintf(`{"cluster": %q, "namespace": %q, "name": "nightly", "uid": "uid-1", "scheduledAt": "2026-01-01T01:30:00Z"}`, clusterUID, w.namespace),
		"r-02": fmt.Sprintf(`{"cluster": %q, "namespace": "elsewhere", "name": "nightly", "uid": "uid-1", "scheduledAt": "2026-01-01T01:30:00Z"}`, clusterUID),
		"r-03": fmt.Sprintf(`{"cluster": %q, "namespace": %q, "name": "nightly", "scheduledAt": "no time"}`, clusterUID, w.namespace),
		"r-04": `[]`,
	} {
		w.exec(`UPDATE openworkflow.workflow_runs SET context = jsonb_build_object('schedule', $2::text::jsonb) WHERE id = $1`, id, schedule)
	}
	_, list := w.list(w.user(), nil)
	got := map[string]string{}
	for _, r := range list.Items {
		got[r.Name] = r.Status.Schedule
		if r.Status.ScheduledAt != nil {
			got[r.Name] += " " + r.Status.ScheduledAt.UTC().Format(time.RFC3339)
		}
	}
	if fmt.Sprint(got) != "map[r-01:nightly 2026-01-01T01:30:00Z r-02: r-03:nightly r-04:]" {
		t.Errorf("the schedules are %v", got)
	}
}
