package dataapi

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// The bounds at which a check warns.
const (
	minVersion       = 150000 // of the server
	maxSkew          = 2 * time.Second
	maxHeld          = 10 * time.Minute // of a transaction
	maxHeldAge       = 1_000_000        // in transactions, where the time is not known
	maxFrozenAge     = 1_000_000_000    // in transactions; the server stops at 2 billion
	fewDead          = 10_000           // dead rows that are no matter
	certificateSpare = 7 * 24 * time.Hour
	maxShownHolders  = 3
)

// diagnoseSeen is what a diagnosis is made from.
type diagnoseSeen struct {
	backend *v1alpha1.Backend
	// silent says that this replica cannot use the database; what follows is nil then.
	silent bool
	*store.Diagnosis
	// schema is the error of the check of the schema.
	schema error
	fleet  *fleet.Fleet
	// sessions says that the caller may read the names of sessions.
	sessions bool
	// certificateEnds is when the certificate of the data API ends, zero if it is not known.
	certificateEnds, now time.Time
}

func ok(name, message string, args ...any) datav1alpha1.Check {
	return datav1alpha1.Check{Name: name, Outcome: datav1alpha1.CheckOK, Message: fmt.Sprintf(message, args...)}
}

func warn(name, next, message string, args ...any) datav1alpha1.Check {
	return datav1alpha1.Check{Name: name, Outcome: datav1alpha1.CheckWarning, Message: fmt.Sprintf(message, args...), Next: next}
}

func failing(name, next, message string, args ...any) datav1alpha1.Check {
	return datav1alpha1.Check{Name: name, Outcome: datav1alpha1.CheckError, Message: fmt.Sprintf(message, args...), Next: next}
}

// diagnose returns the checks, as a pure function.
func diagnose(seen *diagnoseSeen) []datav1alpha1.Check {
	checks := append(checkConditions(seen.backend), checkCertificate(seen))
	if seen.silent {
		return append(checks, failing("connection", "look at the Backend's condition Ready, and at the manager's log",
			"this replica of the manager cannot use the database"))
	}
	return append(checks,
		checkSchema(seen), checkServer(seen), checkDurability(seen), checkClock(seen), checkConnections(seen), checkGrants(seen),
		checkVacuum(seen), checkTables(seen), checkWraparound(seen), checkWorkers(seen))
}

// checkConditions repeats what the manager's own checks of the Backend say.
func checkConditions(object *v1alpha1.Backend) (checks []datav1alpha1.Check) {
	for _, t := range []struct{ condition, name, next string }{
		{v1alpha1.ConditionReady, "backend", "see the reason in docs/failure-modes.md"},
		{v1alpha1.ConditionEncrypted, "encryption", "turn on TLS in the server, and set spec.postgres.sslMode and caSecretRef"},
		{v1alpha1.ConditionWakeUps, "notifications", "connect without the transaction pooler, or accept that runs start up to a second later"},
	} {
		i := slices.IndexFunc(object.Status.Conditions, func(c metav1.Condition) bool { return c.Type == t.condition })
		if i < 0 {
			continue
		}
		c := &object.Status.Conditions[i]
		switch {
		case c.Status == metav1.ConditionTrue:
			checks = append(checks, ok(t.name, "%s: %s", c.Reason, c.Message))
		case t.condition == v1alpha1.ConditionReady:
			checks = append(checks, failing(t.name, t.next, "%s: %s", c.Reason, c.Message))
		default:
			checks = append(checks, warn(t.name, t.next, "%s: %s", c.Reason, c.Message))
		}
	}
	return checks
}

func checkCertificate(seen *diagnoseSeen) datav1alpha1.Check {
	ends := seen.certificateEnds
	switch left := ends.Sub(seen.now); {
	case ends.IsZero():
		return failing("certificate", "look at the manager's log", "the certificate of the data API cannot be read")
	case left <= 0:
		return failing("certificate", "renew it", "the certificate of the data API has expired at %s", stamp(&ends))
	case left < certificateSpare:
		return warn("certificate", "look why it was not renewed: in the manager's log, or at cert-manager", "the certificate of the data API expires at %s", stamp(&ends))
	}
	return ok("certificate", "the certificate of the data API is valid until %s", stamp(&ends))
}

func checkSchema(seen *diagnoseSeen) datav1alpha1.Check {
	if seen.schema != nil {
		return failing("schema", "set spec.migrate of the Backend, or upgrade the manager", "%s", openworkflow.Truncate(seen.schema.Error(), 256))
	}
	return ok("schema", "all migrations of this release are applied")
}

func checkServer(seen *diagnoseSeen) datav1alpha1.Check {
	version := fmt.Sprintf("Postgres %d.%d", seen.Version/10000, seen.Version%10000)
	switch {
	case seen.Standby:
		return failing("server", "wait for its promotion, or correct the address", "%s is a standby, and accepts no writes", version)
	case seen.ReadOnly:
		return failing("server", "take back default_transaction_read_only", "%s accepts no writes, as default_transaction_read_only is on", version)
	case seen.Version < minVersion:
		return warn("server", fmt.Sprintf("upgrade to %d or later", minVersion/10000), "%s is older than what is tested", version)
	}
	return ok("server", "%s", version)
}

func checkDurability(seen *diagnoseSeen) datav1alpha1.Check {
	if seen.Fsync != "on" || seen.SynchronousCommit == "off" {
		return warn("durability", "set both to on: a step that was stored may be executed again after a crash of the server",
			"fsync is %s and synchronous_commit is %s", seen.Fsync, seen.SynchronousCommit)
	}
	return ok("durability", "what is committed survives a crash of the server")
}

func checkClock(seen *diagnoseSeen) datav1alpha1.Check {
	ahead := seen.Ahead.Round(time.Millisecond)
	if ahead.Abs() > maxSkew+seen.Roundtrip/2 {
		return warn("clock", "synchronize both clocks; leases and deadlines count by the server's, so runs are not affected",
			"the server's clock differs from the manager's by %v", ahead)
	}
	return ok("clock", "the server's clock differs from the manager's by less than %v", maxSkew+(seen.Roundtrip/2).Round(time.Millisecond))
}

func checkConnections(seen *diagnoseSeen) datav1alpha1.Check {
	limits := fmt.Sprintf("%d of %d connections of the server are used", seen.Connections, seen.MaxConnections)
	used := seen.Connections*10 >= seen.MaxConnections*8
	if seen.RoleLimit >= 0 {
		limits += fmt.Sprintf(", and %d of %d of the login", seen.RoleConnections, seen.RoleLimit)
		used = used || seen.RoleConnections*10 >= seen.RoleLimit*8
	}
	if used {
		return warn("connections", "raise the limit, run fewer workers, or put a pooler before the server", "%s", limits)
	}
	return ok("connections", "%s", limits)
}

func checkGrants(seen *diagnoseSeen) datav1alpha1.Check {
	if len(seen.Missing) == 0 {
		return ok("grants", "the login has the rights that the manager needs")
	}
	var texts []string
	for _, m := range seen.Missing {
		texts = append(texts, m.Privilege+" on "+m.Table)
	}
	return failing("grants", "grant it, as docs/security.md shows", "the login lacks %s", strings.Join(openworkflow.FirstOf(texts, 8), ", "))
}

// checkVacuum finds what keeps the server from removing dead rows. All indexes of claims have an
// entry for each of these.
func checkVacuum(seen *diagnoseSeen) datav1alpha1.Check {
	var texts []string
	slot := false
	for i := range seen.Holders {
		if h := &seen.Holders[i]; holdsLong(h, seen.now.Add(seen.Ahead)) {
			texts = append(texts, holderText(h, seen.sessions))
			slot = slot || h.Kind == "slot"
		}
	}
	if len(texts) == 0 {
		return ok("vacuum", "nothing keeps the server from removing dead rows")
	}
	next := "end the transaction: SELECT pg_terminate_backend(PID), or ROLLBACK PREPARED 'NAME'"
	if slot {
		next = "start the consumer of the slot again, or drop it: SELECT pg_drop_replication_slot('NAME')"
	}
	if !seen.sessions {
		next += "; who may get diagnoses/sessions sees the names"
	}
	return warn("vacuum", next, "dead rows cannot be removed because of %s", strings.Join(openworkflow.FirstOf(texts, maxShownHolders), ", "))
}

func holdsLong(h *store.Holder, now time.Time) bool {
	if h.Since != nil {
		return now.Sub(*h.Since) > maxHeld
	}
	return h.Age > maxHeldAge
}

func holderText(h *store.Holder, named bool) string {
	age := fmt.Sprintf("since %d transactions", h.Age)
	if h.Since != nil {
		age = "since " + stamp(h.Since)
	}
	what := map[string]string{"session": "a session", "slot": "a replication slot", "prepared": "a prepared transaction"}[h.Kind]
	if !named {
		return fmt.Sprintf("%s, open %s", what, age)
	}
	switch h.Kind {
	case "session":
		return fmt.Sprintf("the session with pid %s of application %q and role %q (%s), open %s", h.Name, h.Application, h.Role, h.State, age)
	case "slot":
		return fmt.Sprintf("the replication slot %q (%s), held %s", h.Name, h.State, age)
	default:
		return fmt.Sprintf("the prepared transaction %q, open %s", h.Name, age)
	}
}

func checkTables(seen *diagnoseSeen) datav1alpha1.Check {
	if seen.Autovacuum != "on" {
		return warn("tables", "turn it on: claims read the entries of dead rows until they are removed", "autovacuum is %s", seen.Autovacuum)
	}
	var texts []string
	for _, t := range seen.Tables {
		if t.Dead > fewDead && t.Dead > t.Live/2 {
			texts = append(texts, fmt.Sprintf("%s has %d dead rows beside %d, last vacuumed at %s", t.Name, t.Dead, t.Live, stamp(t.LastVacuum)))
		}
	}
	if len(texts) > 0 {
		return warn("tables", "make autovacuum more aggressive for these tables, or VACUUM them", "%s", strings.Join(texts, "; "))
	}
	return ok("tables", "the tables have few dead rows")
}

func checkWraparound(seen *diagnoseSeen) datav1alpha1.Check {
	if seen.FrozenAge > maxFrozenAge {
		return failing("wraparound", "VACUUM FREEZE the database, and find what keeps autovacuum from it",
			"the oldest row was frozen %d transactions ago; the server stops to accept writes at 2 billion", seen.FrozenAge)
	}
	return ok("wraparound", "the oldest row was frozen %d transactions ago", seen.FrozenAge)
}

// checkWorkers finds pools whose workers do not say what they serve.
func checkWorkers(seen *diagnoseSeen) datav1alpha1.Check {
	var silent, blocked []string
	for _, p := range seen.fleet.Pools(openworkflow.Definition{}) {
		if p.Ready > 0 && len(p.Workflows) == 0 {
			silent = append(silent, p.Name)
		}
	}
	for pool := range seen.fleet.Blocked() {
		blocked = append(blocked, pool)
	}
	slices.Sort(blocked)
	switch {
	case len(silent) > 0:
		return warn("workers", "list spec.workflows of the pool, as TypeScript workers do not announce it; of Go workers, look at the log",
			"ready pods of %s have not announced what they serve", strings.Join(openworkflow.FirstOf(silent, 8), ", "))
	case len(blocked) > 0:
		return warn("workers", "make the functions honor their context, see docs/failure-modes.md",
			"workers of %s claim nothing, as functions that do not return occupy all their slots", strings.Join(openworkflow.FirstOf(blocked, 8), ", "))
	}
	return ok("workers", "%d live workers announce what they serve", seen.fleet.Size())
}

// worstOf is the outcome of all checks.
func worstOf(checks []datav1alpha1.Check) string {
	worst := datav1alpha1.CheckOK
	for i := range checks {
		switch checks[i].Outcome {
		case datav1alpha1.CheckError:
			return datav1alpha1.CheckError
		case datav1alpha1.CheckWarning:
			worst = datav1alpha1.CheckWarning
		}
	}
	return worst
}
