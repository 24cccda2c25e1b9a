package dataapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/internal/testpg"
)

// sameTime inserts runs that were created at the same time, each with an approval and an outcome of a slot.
func (w *world) sameTime(url string, ids ...string) {
	w.t.Helper()
	for _, sql := range []string{`
	INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
	SELECT $1, id, 'w', 'pending', '{}', 0, timestamptz '2026-01-01', now() FROM unnest($2::text[]) id`, `
	INSERT INTO openworkflow.operator_approvals
		(namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, decisions, created_at)
	SELECT $1, id, 's', 'a', 'd', '{}', 'Deny', timestamptz '2099-01-01', 'Open', '[]', timestamptz '2026-01-01' FROM unnest($2::text[]) id`,
	} {
		testpgExec(w.t, url, sql, w.namespace, ids)
	}
	testpgExec(w.t, url, `INSERT INTO openworkflow.operator_schedule_slots
		(namespace_id, schedule_uid, slot, last_slot, slots, cluster, namespace, schedule_name, reason, run, recorded_at)
	SELECT $1, id, timestamptz '2026-01-01', timestamptz '2026-01-01', 1, $3, $1, 'nightly', 'Started', id, now() FROM unnest($2::text[]) id`,
		w.namespace, ids, clusterUID)
}

// Databases sort texts by their language, in which a, B, c may follow each other. A page goes on where
// the one before it ended, also where several databases have items of one time, and two Backends one
// database.
func TestLists_R132_PagesMeetInAnyCollation(t *testing.T) {
	w := setup(t)
	english := testpg.NewICU(t, "en-US")
	w.backend("english", english)
	w.backend("english-too", english)
	w.backend("bytes", testpgNew(t))
	w.sameTime(english, "a", "B", "c", "D", "e", "-f", "G")
	w.sameTime(w.url, "b", "C", "d", "A", "e2")
	c := w.user()
	lists := map[string]func(params map[string]string) (ids []string, next string){
		"runs": func(params map[string]string) ([]string, string) {
			ids, list := w.list(c, params)
			return ids, list.Continue
		},
		"approvals": func(params map[string]string) (ids []string, next string) {
			list := w.mustApprovals(c, flat(params)...)
			return strings.Fields(runsOf(list)), list.Continue
		},
		"scheduleslots": func(params map[string]string) (ids []string, next string) {
			list, err := w.listSlots(c, flat(params)...)
			if err != nil {
				t.Fatal(err)
			}
			for i := range list.Items {
				ids = append(ids, list.Items[i].Status.Run)
			}
			return ids, list.Continue
		},
	}
	for name, read := range lists {
		for selector, want := range map[string]string{
			"spec.backend=english": "-f B D G a c e", "spec.backend=default": "A C b d e2", "": "-f A B C D G a b c d e e2", "spec.backend=bytes": "",
		} {
			whole, next := read(map[string]string{"fieldSelector": selector})
			sorted := slices.Sorted(slices.Values(whole))
			if strings.Join(sorted, " ") != want || next != "" {
				t.Errorf("%s of %q are %q, continue %q", name, selector, whole, next)
			}
			for _, limit := range []string{"1", "2", "5"} {
				var got []string
				for params := map[string]string{"fieldSelector": selector, "limit": limit}; ; params["continue"] = next {
					var ids []string
					if ids, next = read(params); len(got) > 20 {
						t.Fatalf("%s of %q by %s do not end", name, selector, limit)
					}
					if got = append(got, ids...); next == "" {
						break
					}
				}
				if !slices.Equal(got, whole) {
					t.Errorf("%s of %q by %s are %q, want %q", name, selector, limit, got, whole)
				}
			}
		}
	}
}

func flat(params map[string]string) (list []string) {
	for name, value := range params {
		list = append(list, name, value)
	}
	return list
}
