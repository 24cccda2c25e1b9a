//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// rowAttacks write to the tables by the tenant's own login.
var rowAttacks = []attack{
	{"rows/objects-of-others", tryRowsOfOthers},
	{"rows/objects-of-another-backend", tryRowsOfAnotherBackend},
	{"rows/objects-that-do-not-exist", tryRowsOfNobody},
	{"rows/infinite-times", tryInfiniteTimes},
	{"rows/garbage", tryGarbage},
	{"rows/large-errors", tryLargeErrors},
	{"rows/deep-json", tryDeepJSON},
	{"rows/ten-thousand-workers", tryWorkers},
	{"rows/many-rows", tryManyRows},
	{"rows/locked-tables", tryLockedTables},
	{"rows/held-key", tryHeldKey},
	{"rows/notifications", tryNotifications},
	{"rows/advisory-locks", tryAdvisoryLocks},
}

// insertRun is a row with the columns that attacks vary.
const insertRun = `
INSERT INTO %s.workflow_runs (namespace_id, id, workflow_name, status, config, context, output, error, attempts, worker_id,
	available_at, started_at, finished_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, '{}', $5, $6, $7, 1000000, $8, now(), now(), $9, date_trunc('milliseconds', now()), now())`

// row inserts a run that says it is that of an object.
func (a *attacker) row(schema, status string, object openworkflow.ObjectRef) {
	a.Helper()
	object.Cluster = a.scene.id
	var finished *time.Time
	var output, failure, worker *string
	switch status {
	case "completed":
		finished, output = new(time.Now()), new(`{"forged": true}`)
	case "failed":
		finished, failure = new(time.Now()), new(`{"message": "forged"}`)
	case "running":
		worker = new("forged.forged.1")
	}
	_, err := a.database.Exec(a.Context(), fmt.Sprintf(insertRun, schema), a.namespace, openworkflow.NewID(), "checkout", status,
		openworkflow.RunContext{Kubernetes: &object}.Encode(), output, failure, worker, finished)
	a.must(err)
}

// refTo returns how a row names an object.
func refTo(o client.Object) openworkflow.ObjectRef {
	return openworkflow.ObjectRef{
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID()), Generation: o.GetGeneration(), ResourceVersion: o.GetResourceVersion(),
	}
}

var ends = []string{"completed", "failed", "canceled", "running", "pending"}

// Rows that name the honest tenant's objects change none of them; its oracle says so at the end.
func tryRowsOfOthers(a *attacker) {
	honest := a.scene.honest
	kept := honest.newRun("kept", fields{})
	a.must(honest.admin.Get(a.Context(), client.ObjectKeyFromObject(kept), kept))
	a.repeat(time.Second, func(i int) {
		var list v1alpha1.WorkflowRunList
		a.must(honest.admin.List(a.Context(), &list, client.InNamespace(honest.namespace), client.Limit(3)))
		for _, o := range list.Items {
			a.row(a.login, ends[i%len(ends)], refTo(&o))
		}
		a.row(a.login, ends[i%len(ends)], refTo(kept))
	})
	honest.in(a.T).mustSay(kept, v1alpha1.ReasonScheduled)
}

// Rows of one Backend that name an object of another Backend do not change it.
func tryRowsOfAnotherBackend(a *attacker) {
	victim := a.newRun("victim", fields{"workflowName": "nobody-serves", "backendRef": fields{"name": "other"}})
	a.must(a.create(victim))
	a.awaitReason(time.Minute, victim, v1alpha1.ReasonNoWorker)
	a.must(a.admin.Get(a.Context(), client.ObjectKeyFromObject(victim), victim))
	for _, status := range ends {
		ref := refTo(victim)
		a.row(a.login, status, ref)
		ref.ResourceVersion, ref.Generation = "", 0
		a.row(a.login, status, ref)
	}
	<-a.over.Done()
	a.mustSay(victim, v1alpha1.ReasonNoWorker)
	a.must(a.admin.Get(a.Context(), client.ObjectKeyFromObject(victim), victim))
	if dig(victim, "status", "output") != "" || dig(victim, "status", "corrections") != "" {
		a.Errorf("the object of the other Backend has the status %s", dig(victim, "status"))
	}
}

// Thousands of rows whose objects do not exist are canceled at the manager's own pace.
func tryRowsOfNobody(a *attacker) {
	n := 3000
	if testing.Short() {
		n = 1000
	}
	_, err := a.database.Exec(a.Context(), fmt.Sprintf(`
		INSERT INTO %s.workflow_runs (namespace_id, id, workflow_name, status, config, context, attempts, available_at, created_at, updated_at)
		SELECT $1, gen_random_uuid(), 'nobody-serves', 'pending', '{}', jsonb_build_object('kubernetes', jsonb_build_object(
			'cluster', $2::text, 'namespace', CASE WHEN i %% 2 = 0 THEN $3 ELSE $1 END, 'name', 'gone-' || i, 'uid', gen_random_uuid(), 'generation', 1)),
			0, now(), date_trunc('milliseconds', now()), now()
		FROM generate_series(1, $4::int) AS i`, a.login), a.namespace, a.scene.id, a.scene.honest.namespace, n)
	a.must(err)
	<-a.over.Done()
	a.goodRun(patience)
}

// mirrored creates runs that nobody serves, and waits until their rows exist.
func (a *attacker) mirrored(prefix string, n int) []*unstructured.Unstructured {
	a.Helper()
	runs := make([]*unstructured.Unstructured, n)
	for i := range runs {
		runs[i] = a.newRun(fmt.Sprintf("%s-%d", prefix, i), fields{"workflowName": "nobody-serves"})
		a.must(a.create(runs[i]))
	}
	end := time.Now().Add(time.Minute)
	for _, run := range runs {
		a.await(time.Until(end), "run "+run.GetName()+" to be mirrored", func() bool {
			return a.admin.Get(a.Context(), client.ObjectKeyFromObject(run), run) == nil && dig(run, "status", "runID") != ""
		})
	}
	return runs
}

// rewrite changes the rows of objects.
func (a *attacker) rewrite(runs []*unstructured.Unstructured, set string) {
	a.Helper()
	for _, run := range runs {
		_, err := a.database.Exec(a.Context(), fmt.Sprintf("UPDATE %s.workflow_runs SET %s WHERE id = $1", a.login, set), string(run.GetUID()))
		if err != nil {
			a.Errorf("SET %.200s: %v", set, err)
		}
	}
}

// Times without end, in every column, make only their own run unreadable.
func tryInfiniteTimes(a *attacker) {
	runs := a.mirrored("infinite", 8)
	for i, column := range []string{"available_at", "deadline_at", "started_at", "finished_at", "created_at", "updated_at"} {
		a.rewrite(runs[i:i+1], column+" = 'infinity'")
		a.rewrite(runs[i+1:i+2], column+" = '-infinity'")
		a.rewrite(runs[i+2:i+3], column+" = '294276-12-31'")
	}
	a.goodRun(patience)
}

// Values of a kind that nobody expects fail no statement and no batch.
func tryGarbage(a *attacker) {
	var sets []string
	for _, value := range []string{`[]`, `"x"`, `null`, `7`, `{}`, `[[[]]]`, `{"a": 1e300}`, `{"message": 7}`, `{"kubernetes": 7}`, `{"kubernetes": {"uid": []}}`,
		`{"suspendedAt": "x", "resumeAt": {}, "failures": "many", "operatorSuspendedAt": 1e300, "operatorResumeAt": []}`} {
		for _, column := range []string{"config", "context", "input", "output", "error"} {
			sets = append(sets, fmt.Sprintf("%s = '%s'", column, value))
		}
	}
	sets = append(sets, "status = 'exploded'", "status = ''", "attempts = -2147483648", "attempts = 2147483647", "worker_id = repeat('w', 100000), status = 'running'",
		"workflow_name = repeat('x', 100000)", "version = E'\\x01'", "idempotency_key = repeat('k', 2000)")
	runs := a.mirrored("garbage", len(sets))
	for i, set := range sets {
		a.rewrite(runs[i:i+1], set)
	}
	a.goodRun(patience)
}

// Errors and outputs of a megabyte, in the rows of many objects at once, stay out of the manager.
func tryLargeErrors(a *attacker) {
	n := 600
	if testing.Short() {
		n = 100
	}
	runs := a.mirrored("loud", n)
	noise := "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32768))" // which does not compress
	a.rewrite(runs, "error = jsonb_build_object('message', "+noise+"), updated_at = now()")
	a.rewrite(runs[:n/2], "output = jsonb_build_object('text', "+noise+"), status = 'completed', finished_at = now(), updated_at = now()")
	message := a.awaitReason(time.Minute, runs[0], v1alpha1.ReasonCompleted)
	if len(message) > 2048 {
		a.Errorf("the message has %d bytes", len(message))
	}
	a.goodRun(patience)
}

// JSON of any depth is read, or left out.
func tryDeepJSON(a *attacker) {
	runs := a.mirrored("deep", 3)
	for i, depth := range []int{100, 1000, 5000} {
		for _, column := range []string{"output", "error", "context", "config"} {
			a.rewrite(runs[i:i+1], fmt.Sprintf("%s = (repeat('[', %d) || repeat(']', %[2]d))::jsonb", column, depth))
			a.rewrite(runs[i:i+1], fmt.Sprintf("%s = (repeat('{\"a\":', %d) || '1' || repeat('}', %[2]d))::jsonb", column, depth))
		}
		a.rewrite(runs[i:i+1], "status = 'completed', finished_at = now(), updated_at = now()")
		a.awaitReason(time.Minute, runs[i], v1alpha1.ReasonCompleted)
	}
	a.goodRun(patience)
}

// Ten thousand workers that serve much, and that stay live, do not fill the manager.
func tryWorkers(a *attacker) {
	a.repeat(3*time.Second, func(int) {
		_, err := a.database.Exec(a.Context(), fmt.Sprintf(`
			INSERT INTO %s.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, seen_at)
			SELECT $1, 'forged-' || i, 'p', repeat('n', 1000), 'pool-' || i, (SELECT jsonb_agg(jsonb_build_object('name', 'w-' || j)) FROM generate_series(1, 50) AS j), now()
			FROM generate_series(1, 10000) AS i
			ON CONFLICT (namespace_id, pod_uid, process) DO UPDATE SET seen_at = now()`, a.login), a.namespace)
		a.must(err)
	})
	a.goodRun(patience)
}

// A backlog of rows that nobody serves slows only its own tables.
func tryManyRows(a *attacker) {
	n := 50_000
	if testing.Short() {
		n = 10_000
	}
	_, err := a.database.Exec(a.Context(), fmt.Sprintf(`
		INSERT INTO %s.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, deadline_at, created_at, updated_at)
		SELECT $1, gen_random_uuid(), 'nobody-serves', (ARRAY['pending', 'running', 'sleeping'])[1 + i %% 3], '{}', 0, now(),
			now() + i * interval '20 ms', date_trunc('milliseconds', now()), now()
		FROM generate_series(1, $2::int) AS i`, a.login), a.namespace, n)
	a.must(err)
	<-a.over.Done()
	a.goodRun(patience)
}

// held opens a transaction, executes a statement in it, and keeps it open until the time for
// attacks is over.
func (a *attacker) held(statement string, arguments ...any) (release func()) {
	a.Helper()
	tx, err := a.database.Begin(a.Context())
	a.must(err)
	_, err = tx.Exec(a.Context(), statement, arguments...)
	a.must(err)
	return func() { _ = tx.Rollback(a.Context()) }
}

// A Backend whose tables are locked says that it does not get on, and holds up no other one,
// not even of its own namespace.
func tryLockedTables(a *attacker) {
	b := a.newBackend("locked", "db", a.login+"_locked")
	defer a.held(fmt.Sprintf("LOCK TABLE %s_locked.workflow_runs IN ACCESS EXCLUSIVE MODE", a.login))()
	for i := range 200 {
		a.must(a.create(a.newRun(fmt.Sprintf("locked-%d", i), fields{"workflowName": "nobody-serves", "backendRef": fields{"name": "locked"}})))
	}
	reason, message := a.awaitNotReady(time.Minute, b)
	a.Logf("the locked Backend says %s: %s", reason, message)
	a.goodRun(patience)
	<-a.over.Done()
}

// A run whose key an open transaction holds waits alone.
func tryHeldKey(a *attacker) {
	defer a.held(fmt.Sprintf(`
		INSERT INTO %s_held.workflow_runs (namespace_id, id, workflow_name, status, config, idempotency_key, attempts, created_at, updated_at)
		VALUES ($1, 'held', 'nobody-serves', 'pending', '{}', 'held-key', 0, now(), now())`, a.login), a.namespace)()
	spec := func(key string) fields {
		return fields{"workflowName": "nobody-serves", "backendRef": fields{"name": "held"}, "idempotencyKey": key}
	}
	a.must(a.create(a.newRun("held-same", spec("held-key"))))
	for i := range 10 {
		plain := a.newRun(fmt.Sprintf("held-%d", i), spec(fmt.Sprintf("free-key-%d", i)))
		a.must(a.create(plain))
		a.awaitReason(patience, plain, v1alpha1.ReasonNoWorker)
	}
	<-a.over.Done()
}

// Whoever shares a database can wake its other tenants' workers. It costs them polls, and no more.
func tryNotifications(a *attacker) {
	honest := a.scene.honest
	sum := sha256.Sum256([]byte(honest.login + "\x00" + honest.namespace))
	channel := "openworkflow_" + hex.EncodeToString(sum[:16])
	payload := strings.Repeat("x", 7000)
	a.repeat(200*time.Millisecond, func(int) {
		var batch pgx.Batch
		for range 10 {
			batch.Queue("SELECT pg_notify($1, $3), pg_notify($2, $3)", channel, channel+"_ends", payload)
		}
		a.must(a.database.SendBatch(a.Context(), &batch).Close())
	})
}

// Advisory locks are the database's, too. Whoever holds that of migrations keeps no schema that
// is current from being used.
func tryAdvisoryLocks(a *attacker) {
	defer a.held("SELECT pg_advisory_xact_lock($1)", int64(0x6f776d6967726174))()
	honest := a.scene.honest.in(a.T)
	again := honest.newBackend("again", "db", honest.login)
	honest.must(honest.admin.Create(a.Context(), again))
	honest.eventually(patience, "another Backend of the honest tenant to be ready", func() bool {
		reason, _ := honest.ready(again)
		return reason == v1alpha1.ReasonConnected
	})
	<-a.over.Done()
	honest.mustSay(again, v1alpha1.ReasonConnected)
}
