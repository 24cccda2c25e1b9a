package store_test

import (
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// TestCreate_R180_DurationsCountFromTheServersClock: what was an instant by the caller's clock is an
// interval, which the server adds to its own now().
func TestCreate_R180_DurationsCountFromTheServersClock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, suspended := range map[string]bool{"due later": false, "suspended": true} {
		id := f.create(1, func(r *store.NewRun) { r.Delay, r.Timeout, r.Suspended = time.Hour, 2*time.Hour, suspended })[0]
		due := `available_at - created_at`
		if suspended {
			due = `to_timestamp((config ->> 'openworkflow.dev/resumeAt')::float8) - created_at`
		}
		f.expect(id, `(`+due+`) BETWEEN '59:59.999' AND '01:00:00.001'`, "true")
		f.expect(id, `deadline_at - created_at`, "02:00:00")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	if runs := f.claim(10); len(runs) != 0 {
		t.Errorf("claimed %d runs before their time", len(runs))
	}
}
