package controller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// backendStage is a part of the check of a Backend, as a verb for messages.
type backendStage string

const (
	stageSecret  backendStage = "read the Secret"
	stageWorkers backendStage = "read the URL for workers"
	stageOpen    backendStage = "connect"
	stageMigrate backendStage = "migrate"
	stageSchema  backendStage = "check the schema"
	stageSweep   backendStage = "sweep"
	stagePing    backendStage = "ping"
)

// backendCheck is the result of the check of a Backend. Without an err its database can be
// used.
type backendCheck struct {
	stage   backendStage // the last one, which failed if there is an err
	err     error
	version string
	// logged is the text of err for the manager's log, without what stands in a URL.
	logged string
	// conn is nil if the database was not reached.
	conn *backend.Connection
}

// errSecret is the error of a Secret that has no URL. Its text is for the user.
type errSecret struct{ text string }

func (e errSecret) Error() string { return e.text }

// What the key of a Secret should hold, for messages.
const (
	contentURL = "the database URL"
	contentCA  = "the certificates of the database's CA"
)

// errUnreadable is the error of a Backend whose spec cannot be read. Its text is for the user.
type errUnreadable struct{ text string }

func (e errUnreadable) Error() string { return e.text }

// secretMissing is the error of a Secret that does not exist.
func secretMissing(name, key, content string) error {
	return errSecret{fmt.Sprintf("Secret %q does not exist: create it with %s under the key %q", name, content, key)}
}

// secretImpossible is the error of a Secret that cannot exist.
func secretImpossible(name string) error {
	return errSecret{fmt.Sprintf("no Secret can have the name %q: correct it in spec.postgres", name)}
}

// secretKeyMissing is the error of a Secret without the key. It names the keys that exist.
func secretKeyMissing(name, key, content string, keys []string) error {
	has := "it is empty"
	if len(keys) > 0 {
		slices.Sort(keys)
		has = "it has " + strings.Join(openworkflow.FirstOf(keys, 5), ", ")
	}
	field := "urlSecretRef"
	if content == contentCA {
		field = "caSecretRef"
	}
	return errSecret{fmt.Sprintf("Secret %q has no key %q (%s): add %s under that key, or name another in spec.postgres.%s.key",
		name, key, has, content, field)}
}

// explainBackend returns the reason of a failed check and a message that says what to do.
//
// Whoever may read a Backend reads the message, and whoever may write one chooses the address. So
// it names a class of errors and no text of the network or of a server that has not accepted the
// login yet: such texts have told what listens where, and a part of a mistyped URL.
func explainBackend(spec *v1alpha1.BackendSpec, c backendCheck) (reason, message string) {
	ref := spec.Postgres.URLSecretRef
	switch c.stage {
	case stageMigrate:
		ref = spec.Postgres.MigrationSecret()
	case stageWorkers:
		ref = spec.Postgres.WorkerSecret()
	default:
	}
	source := fmt.Sprintf("the URL in Secret %q", ref.Name)
	var secret errSecret
	var unreadable errUnreadable
	var owner *store.OwnerError
	var underWay errUnderWay
	switch {
	case errors.As(c.err, &underWay) && c.stage == stageMigrate:
		return v1alpha1.ReasonMigrating, fmt.Sprintf(
			"the schema %q is being migrated, %s: it waits for others that use the tables, for indexes on large tables, or for other migrations of this namespace", spec.Schema, underWay)
	case errors.As(c.err, &underWay), errors.Is(c.err, backend.ErrSlow), c.stage == stageSweep && (errors.Is(c.err, context.DeadlineExceeded) || store.LockTimeout(c.err)):
		return v1alpha1.ReasonSlow, fmt.Sprintf(
			"the database answers, but its statements do not end within %s; look for locks in pg_locks, for long transactions and for load; trying again", backend.SlowAfter)
	case errors.As(c.err, &unreadable):
		return v1alpha1.ReasonUnreadable, unreadable.text
	case errors.As(c.err, &secret):
		return v1alpha1.ReasonSecretNotFound, secret.text
	case errors.Is(c.err, store.ErrInvalidURL):
		return v1alpha1.ReasonInvalidURL, fmt.Sprintf(
			"the key %q of Secret %q does not hold a Postgres URL such as postgres://user:password@host:5432/database?sslmode=verify-full, with special characters in the password percent-encoded: %s",
			ref.Key, ref.Name, strings.TrimPrefix(c.err.Error(), store.ErrInvalidURL.Error()+": ")) // it quotes nothing of the URL but names of known parameters
	case errors.Is(c.err, backend.ErrAddressDenied):
		return v1alpha1.ReasonAddressDenied, fmt.Sprintf(
			"the manager does not connect to the address in %s: it is one of its own host, link-local, or in a network without databases; use an address that every pod reaches", source)
	case errors.Is(c.err, store.ErrAuthentication):
		return v1alpha1.ReasonAuthenticationFailed, fmt.Sprintf(
			"Postgres refused the user or password of %s; correct it there, it is read again by itself", source)
	case errors.Is(c.err, store.ErrDatabaseMissing):
		return v1alpha1.ReasonDatabaseMissing, fmt.Sprintf(
			"the server has no database of the name in %s; create it or correct the URL", source)
	case errors.As(c.err, &owner):
		return v1alpha1.ReasonInsufficientPrivilege, fmt.Sprintf("the database user cannot %s: %s", c.stage, owner)
	case errors.Is(c.err, store.ErrPrivilege):
		return v1alpha1.ReasonInsufficientPrivilege, fmt.Sprintf(
			"the database user lacks a right to %s; grant it CREATE on the database, or all rights on the schema %q and what is in it: %s",
			c.stage, spec.Schema, serverText(c.err))
	case errors.Is(c.err, store.ErrSchemaTooNew):
		return v1alpha1.ReasonSchemaTooNew, fmt.Sprintf(
			"the tables in the schema %q were written by a newer release; upgrade this manager: %s", spec.Schema, serverText(c.err))
	case errors.Is(c.err, store.ErrSchemaMissing):
		return v1alpha1.ReasonSchemaMissing, fmt.Sprintf(
			"the schema %q is missing or outdated and spec.migrate is false; set it to true, or migrate by hand: %s", spec.Schema, serverText(c.err))
	case errors.Is(c.err, backend.ErrPanic):
		return v1alpha1.ReasonInternalError, "work for this Backend failed by a fault of the manager, whose log has the stack; trying again"
	case errors.Is(c.err, store.ErrUnexpectedAnswer):
		return v1alpha1.ReasonUnexpectedAnswer, fmt.Sprintf(
			"what answers at the address in %s does not behave like Postgres; trying again", source)
	case errors.Is(c.err, store.ErrReadOnly):
		return v1alpha1.ReasonReadOnly, fmt.Sprintf(
			"the database at the address in %s answers but accepts no writes; trying again: %s", source, truncateText(c.err.Error(), 512))
	case errors.Is(c.err, store.ErrInvalidCA):
		return v1alpha1.ReasonTLSFailed, fmt.Sprintf(
			"the key %q of Secret %q holds no certificate in PEM form; correct it there, it is read again by itself", spec.Postgres.CASecretRef.Key, spec.Postgres.CASecretRef.Name)
	case tlsFailed(c.err):
		return v1alpha1.ReasonTLSFailed, fmt.Sprintf(
			"no encrypted connection as %s and spec.postgres ask for: the server offers none, or its certificate is not trusted, or is for another name; "+
				"check sslMode, caSecretRef, the name of the host, and the server's certificate", source)
	case errors.Is(c.err, store.ErrUnreachable), errors.Is(c.err, context.DeadlineExceeded):
		return v1alpha1.ReasonUnreachable, fmt.Sprintf(
			"the database does not answer at the address in %s; trying again", source)
	case c.stage == stageMigrate:
		return v1alpha1.ReasonMigrationFailed, fmt.Sprintf("the schema %q could not be migrated; trying again: %s", spec.Schema, serverText(c.err))
	default:
		return v1alpha1.ReasonUnreachable, fmt.Sprintf("the database failed to %s; trying again: %s", c.stage, serverText(c.err))
	}
}

// serverText returns what a user may read of an error: the text of a server that has accepted
// the login, or this program's own about the schema.
func serverText(err error) string {
	if text := store.ServerText(err); text != "" {
		return truncateText(text, 512)
	}
	if errors.Is(err, store.ErrSchemaTooNew) || errors.Is(err, store.ErrSchemaMissing) {
		return truncateText(err.Error(), 512)
	}
	return "see the manager's log"
}

// tlsFailed reports whether a connection failed because of its encryption.
func tlsFailed(err error) bool {
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &certificate) || errors.As(err, &authority) || errors.As(err, &hostname) ||
		errors.As(err, &record) || errors.As(err, &alert) || err != nil && strings.Contains(err.Error(), "server refused TLS connection")
}

// redact replaces in a text whatever stands in these URLs, for the log. In a URL that was typed
// wrongly a password may be in any place, so only its scheme is known to be none.
func redact(text string, urls ...string) string {
	const least = 3 // shorter parts hide nothing and would spoil the text
	var parts []string
	for _, u := range urls {
		_, rest, found := strings.Cut(u, "://")
		if !found {
			rest = u
		}
		for _, part := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(":/?@&=#'\" \t\n", r) }) {
			decoded, err := url.PathUnescape(part)
			if err != nil {
				decoded = part
			}
			parts = append(parts, part, decoded)
		}
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) }) // no part leaves the rest of a longer one
	for _, part := range parts {
		if len(part) >= least {
			text = strings.ReplaceAll(text, part, "***")
		}
	}
	return text
}

// stalls reports whether a Backend with this reason stays unready until a person acts.
func stalls(reason string) bool {
	switch reason {
	case v1alpha1.ReasonInvalidURL, v1alpha1.ReasonAuthenticationFailed, v1alpha1.ReasonDatabaseMissing,
		v1alpha1.ReasonInsufficientPrivilege, v1alpha1.ReasonSchemaMissing, v1alpha1.ReasonSchemaTooNew,
		v1alpha1.ReasonTLSFailed, v1alpha1.ReasonAddressDenied, v1alpha1.ReasonUnreadable:
		return true
	default:
		return false
	}
}

// maxBackendMessage bounds the message of a Backend, in bytes. The API server takes 32 KiB, and those of runs
// repeat it.
const maxBackendMessage = 4096

// planBackend returns the state to publish after a check, and the Backend's status.
func planBackend(object *v1alpha1.Backend, c backendCheck, now time.Time) (backend.State, v1alpha1.BackendStatus) {
	state := backend.State{Known: true, Ready: c.err == nil, Reason: v1alpha1.ReasonConnected, Message: "the database answers and its schema is current"}
	if c.err != nil {
		state.Reason, state.Message = explainBackend(&object.Spec, c)
	} else if c.conn != nil {
		state.Message += c.conn.Warning + workersWarning(len(c.conn.Workers()))
	}
	state.Message = truncateText(state.Message, maxBackendMessage)
	status := *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	status.NamespaceID = backend.NamespaceID(object)
	if c.version != "" {
		status.ServerVersion = truncateText(c.version, 64)
	}
	set := conditionSetter(&status.Conditions, object.Generation, now)
	setBackendState(set, state)
	if c.conn != nil {
		setWakeUps(set, c.conn.Store.TransactionPooled())
		setEncrypted(set, c.conn.Store.Encrypted())
	}
	return state, status
}

// setBackendState sets the conditions that say whether a Backend can be used.
func setBackendState(set setCondition, state backend.State) {
	set(v1alpha1.ConditionReady, state.Ready, state.Reason, state.Message)
	set.only(v1alpha1.ConditionReconciling, !state.Ready && !stalls(state.Reason), state.Reason, state.Message)
	set.only(v1alpha1.ConditionStalled, !state.Ready && stalls(state.Reason), state.Reason, state.Message)
}

// collationWarning continues the message of a Backend that is ready.
func collationWarning(built, actual string) string {
	if built == actual {
		return ""
	}
	return fmt.Sprintf("; but the version of its collation has changed from %s to %s, so that indexes may miss rows: "+
		"execute REINDEX DATABASE and ALTER DATABASE … REFRESH COLLATION VERSION", truncateText(built, 64), truncateText(actual, 64))
}

// workersWarning continues the message of a Backend with more workers than are read.
func workersWarning(n int) string {
	if n < store.MaxWorkers {
		return ""
	}
	return fmt.Sprintf("; but %d workers or more have announced themselves, and only the newest of them count for status and recovery: "+
		"look at the table operator_workers", store.MaxWorkers)
}

// setWakeUps sets the condition WakeUps of a Backend whose database was reached.
func setWakeUps(set setCondition, pooled bool) {
	if pooled {
		set(v1alpha1.ConditionWakeUps, false, v1alpha1.ReasonPolling, "a transaction pooler is before the database, through which "+
			"notifications do not arrive: runs start up to a second later, when workers poll; use a pooler in session mode, or the address of the database itself")
		return
	}
	set(v1alpha1.ConditionWakeUps, true, v1alpha1.ReasonListening, "notifications of the database reach the workers")
}

// setEncrypted sets the condition Encrypted of a Backend whose database was reached. A connection
// on loopback counts like any other: the pods' connections do not stay on one host.
func setEncrypted(set setCondition, encrypted bool) {
	if encrypted {
		set(v1alpha1.ConditionEncrypted, true, v1alpha1.ReasonTLS, "the manager's connections to the database are encrypted")
		return
	}
	set(v1alpha1.ConditionEncrypted, false, v1alpha1.ReasonNotEncrypted, "the connection to the database is not encrypted: whoever is on the way "+
		"reads passwords, inputs and results; turn on TLS in the server, and set spec.postgres.sslMode to verify-full, with its CA in caSecretRef")
}

// retention returns how long ended runs are kept, nil for ever.
func retention(object *v1alpha1.Backend) *store.Retention {
	r := &object.Spec.Retention
	if r.TTLSecondsAfterFinished == 0 {
		return nil
	}
	return &store.Retention{
		After:      time.Duration(r.TTLSecondsAfterFinished) * time.Second,
		KeyedAfter: time.Duration(r.IdempotencyKeyTTLSeconds) * time.Second,

		Archive:     r.Archive == v1alpha1.ArchiveEnabled,
		ArchivesFor: time.Duration(r.ArchiveTTLSeconds) * time.Second,
	}
}
