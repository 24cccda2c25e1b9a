package dataapi

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func healthy(change func(*diagnoseSeen)) *diagnoseSeen {
	seen := &diagnoseSeen{
		backend: &v1alpha1.Backend{}, fleet: fleet.New("default", nil, nil), now: whyNow, certificateEnds: *at(60 * 24 * 90),
		Diagnosis: &store.Diagnosis{
			Version: 170002, Connections: 20, MaxConnections: 100, RoleLimit: -1, SynchronousCommit: "on", Fsync: "on", Autovacuum: "on", FrozenAge: 7,
			Roundtrip: 2 * time.Millisecond,
		},
	}
	change(seen)
	return seen
}

func TestDiagnose_HasASentenceForEachFinding(t *testing.T) {
	t.Parallel()
	condition := func(kind string, status metav1.ConditionStatus) func(*diagnoseSeen) {
		return func(s *diagnoseSeen) {
			s.backend.Status.Conditions = []metav1.Condition{{Type: kind, Status: status, Reason: "Why", Message: "a message"}}
		}
	}
	holders := func(named bool, all ...store.Holder) func(*diagnoseSeen) {
		return func(s *diagnoseSeen) { s.Holders, s.sessions = all, named }
	}
	session := store.Holder{Kind: "session", Name: "4711", Application: "report", Role: "bob", State: "idle in transaction", Age: 5, Since: at(-60)}
	const terminate = "end the transaction: SELECT pg_terminate_backend(PID), or ROLLBACK PREPARED 'NAME'"
	for name, test := range map[string]struct {
		change                 func(*diagnoseSeen)
		check                  string
		outcome, message, next string
	}{
		"ready":              {condition("Ready", "True"), "backend", "OK", "Why: a message", ""},
		"not ready":          {condition("Ready", "False"), "backend", "Error", "Why: a message", "see the reason in docs/failure-modes.md"},
		"not encrypted":      {condition("Encrypted", "False"), "encryption", "Warning", "Why: a message", "turn on TLS in the server, and set spec.postgres.sslMode and caSecretRef"},
		"polling":            {condition("WakeUps", "False"), "notifications", "Warning", "Why: a message", "connect without the transaction pooler, or accept that runs start up to a second later"},
		"silent":             {func(s *diagnoseSeen) { s.silent, s.Diagnosis = true, nil }, "connection", "Error", "this replica of the manager cannot use the database", "look at the Backend's condition Ready, and at the manager's log"},
		"certificate":        {func(*diagnoseSeen) {}, "certificate", "OK", "the certificate of the data API is valid until 2026-07-30T12:00:00Z", ""},
		"old certificate":    {func(s *diagnoseSeen) { s.certificateEnds = *at(60) }, "certificate", "Warning", "the certificate of the data API expires at 2026-05-01T13:00:00Z", "look why it was not renewed: in the manager's log, or at cert-manager"},
		"certificate over":   {func(s *diagnoseSeen) { s.certificateEnds = *at(-60) }, "certificate", "Error", "the certificate of the data API has expired at 2026-05-01T11:00:00Z", "renew it"},
		"no certificate":     {func(s *diagnoseSeen) { s.certificateEnds = time.Time{} }, "certificate", "Error", "the certificate of the data API cannot be read", "look at the manager's log"},
		"schema":             {func(*diagnoseSeen) {}, "schema", "OK", "all migrations of this release are applied", ""},
		"old schema":         {func(s *diagnoseSeen) { s.schema = errors.New("it is at version 3") }, "schema", "Error", "it is at version 3", "set spec.migrate of the Backend, or upgrade the manager"},
		"version":            {func(*diagnoseSeen) {}, "server", "OK", "Postgres 17.2", ""},
		"old version":        {func(s *diagnoseSeen) { s.Version = 140003 }, "server", "Warning", "Postgres 14.3 is older than what is tested", "upgrade to 15 or later"},
		"standby":            {func(s *diagnoseSeen) { s.Standby = true }, "server", "Error", "Postgres 17.2 is a standby, and accepts no writes", "wait for its promotion, or correct the address"},
		"read-only":          {func(s *diagnoseSeen) { s.ReadOnly = true }, "server", "Error", "Postgres 17.2 accepts no writes, as default_transaction_read_only is on", "take back default_transaction_read_only"},
		"durable":            {func(*diagnoseSeen) {}, "durability", "OK", "what is committed survives a crash of the server", ""},
		"asynchronous":       {func(s *diagnoseSeen) { s.SynchronousCommit = "off" }, "durability", "Warning", "fsync is on and synchronous_commit is off", "set both to on: a step that was stored may be executed again after a crash of the server"},
		"clock":              {func(*diagnoseSeen) {}, "clock", "OK", "the server's clock differs from the manager's by less than 2.001s", ""},
		"wrong clock":        {func(s *diagnoseSeen) { s.Ahead = -time.Minute }, "clock", "Warning", "the server's clock differs from the manager's by -1m0s", "synchronize both clocks; leases and deadlines count by the server's, so runs are not affected"},
		"connections":        {func(*diagnoseSeen) {}, "connections", "OK", "20 of 100 connections of the server are used", ""},
		"many connections":   {func(s *diagnoseSeen) { s.RoleLimit, s.RoleConnections = 10, 8 }, "connections", "Warning", "20 of 100 connections of the server are used, and 8 of 10 of the login", "raise the limit, run fewer workers, or put a pooler before the server"},
		"grants":             {func(*diagnoseSeen) {}, "grants", "OK", "the login has the rights that the manager needs", ""},
		"missing grants":     {func(s *diagnoseSeen) { s.Missing = []store.MissingGrant{{Table: "workflow_runs", Privilege: "DELETE"}} }, "grants", "Error", "the login lacks DELETE on workflow_runs", "grant it, as docs/security.md shows"},
		"short transactions": {holders(true, store.Holder{Kind: "session", Since: at(-1)}), "vacuum", "OK", "nothing keeps the server from removing dead rows", ""},
		"session": {holders(true, session), "vacuum", "Warning",
			`dead rows cannot be removed because of the session with pid 4711 of application "report" and role "bob" (idle in transaction), open since 2026-05-01T11:00:00Z`, terminate},
		"session without the right": {holders(false, session), "vacuum", "Warning",
			"dead rows cannot be removed because of a session, open since 2026-05-01T11:00:00Z", terminate + "; who may get diagnoses/sessions sees the names"},
		"session of another role": {holders(false, store.Holder{Kind: "session", Age: 2_000_000}), "vacuum", "Warning",
			"dead rows cannot be removed because of a session, open since 2000000 transactions", terminate + "; who may get diagnoses/sessions sees the names"},
		"prepared": {holders(true, store.Holder{Kind: "prepared", Name: "tx-1", Since: at(-60)}), "vacuum", "Warning",
			`dead rows cannot be removed because of the prepared transaction "tx-1", open since 2026-05-01T11:00:00Z`, terminate},
		"slot": {holders(true, store.Holder{Kind: "slot", Name: "cdc", State: "inactive", Age: 2_000_000}), "vacuum", "Warning",
			`dead rows cannot be removed because of the replication slot "cdc" (inactive), held since 2000000 transactions`,
			"start the consumer of the slot again, or drop it: SELECT pg_drop_replication_slot('NAME')"},
		"few dead rows": {func(*diagnoseSeen) {}, "tables", "OK", "the tables have few dead rows", ""},
		"dead rows": {func(s *diagnoseSeen) {
			s.Tables = []store.TableHealth{{Name: "workflow_runs", Live: 100, Dead: 50_000, LastVacuum: at(-60)}}
		}, "tables", "Warning", "workflow_runs has 50000 dead rows beside 100, last vacuumed at 2026-05-01T11:00:00Z", "make autovacuum more aggressive for these tables, or VACUUM them"},
		"no autovacuum": {func(s *diagnoseSeen) { s.Autovacuum = "off" }, "tables", "Warning", "autovacuum is off", "turn it on: claims read the entries of dead rows until they are removed"},
		"frozen":        {func(*diagnoseSeen) {}, "wraparound", "OK", "the oldest row was frozen 7 transactions ago", ""},
		"wraparound": {func(s *diagnoseSeen) { s.FrozenAge = 1_500_000_000 }, "wraparound", "Error",
			"the oldest row was frozen 1500000000 transactions ago; the server stops to accept writes at 2 billion", "VACUUM FREEZE the database, and find what keeps autovacuum from it"},
		"workers": {func(*diagnoseSeen) {}, "workers", "OK", "0 live workers announce what they serve", ""},
		"silent workers": {func(s *diagnoseSeen) {
			pool := v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "ts"}}
			pool.Status.ReadyReplicas = new(int32(1))
			s.fleet = fleet.New("default", []v1alpha1.WorkerPool{pool}, nil)
		}, "workers", "Warning", "ready pods of ts have not announced what they serve",
			"list spec.workflows of the pool, as TypeScript workers do not announce it; of Go workers, look at the log"},
		"blocked workers": {func(s *diagnoseSeen) {
			s.fleet = fleet.New("default", nil, []store.Worker{{Pool: "shop", Blocked: true, Workflows: []openworkflow.Definition{{Name: "w"}}}})
		}, "workers", "Warning", "workers of shop claim nothing, as functions that do not return occupy all their slots",
			"make the functions honor their context, see docs/failure-modes.md"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range diagnose(healthy(test.change)) {
				if c.Name == test.check {
					want := datav1alpha1.Check{Name: test.check, Outcome: test.outcome, Message: test.message, Next: test.next}
					if diff := cmp.Diff(want, c); diff != "" {
						t.Errorf("check (-want +got):\n%s", diff)
					}
					return
				}
			}
			t.Errorf("there is no check %s", test.check)
		})
	}
}

func (w *world) diagnosis(c *rest.RESTClient, name string) (*datav1alpha1.Diagnosis, map[string]datav1alpha1.Check) {
	w.t.Helper()
	var d datav1alpha1.Diagnosis
	if err := c.Get().Namespace(w.namespace).Resource("diagnoses").Name(name).Do(w.t.Context()).Into(&d); err != nil {
		w.t.Fatal(err)
	}
	checks := map[string]datav1alpha1.Check{}
	for _, check := range d.Checks {
		checks[check.Name] = check
	}
	return &d, checks
}

func TestDiagnoses_ReadARealServer(t *testing.T) {
	w := setup(t)
	c := w.user()
	_, checks := w.diagnosis(c, "default")
	for _, name := range []string{"certificate", "schema", "server", "clock", "connections", "grants", "vacuum", "tables", "wraparound", "workers"} {
		if check := checks[name]; check.Outcome != datav1alpha1.CheckOK {
			t.Errorf("check %s is %+v", name, check)
		}
	}
	w.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 5`)
	if d, checks := w.diagnosis(c, "default"); checks["schema"].Outcome != datav1alpha1.CheckError || !strings.Contains(checks["schema"].Message, "operator_migrations is at version 5") || d.Outcome != datav1alpha1.CheckError {
		t.Errorf("diagnosis is %+v", d)
	}
}

func TestDiagnoses_P6_ADatabaseThatIsGoneIsAFinding(t *testing.T) {
	w := setup(t)
	secret := w.secret("default")
	secret.Data["uri"] = []byte("postgres://nobody@127.0.0.1:1/none")
	if err := cluster.admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	d, checks := w.diagnosis(w.user(), "default")
	if checks["connection"].Outcome != datav1alpha1.CheckError || checks["backend"].Outcome != datav1alpha1.CheckError || d.Outcome != datav1alpha1.CheckError {
		t.Errorf("diagnosis is %+v", d)
	}
}
