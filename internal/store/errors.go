package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// The errors that callers distinguish with errors.Is. Every exported method of Store returns
// errors that went through Classify.
var (
	// ErrLeaseLost means that the run no longer carries the worker id of a write: another
	// worker claimed it, or it was canceled, failed at its deadline, or released. Nothing was
	// written (R45).
	ErrLeaseLost = errors.New("lease lost")
	// ErrNotFound means that no such row exists.
	ErrNotFound = errors.New("not found")
	// ErrInvalidJSON means that Postgres cannot store a value: text with U+0000, a number out
	// of range, or malformed JSON (R23). It is about one write.
	ErrInvalidJSON = errors.New("value cannot be stored")
	// ErrTooLarge means that a value is beyond Postgres's limits, such as a name longer than
	// an index entry may be. It is about one write.
	ErrTooLarge = errors.New("value too large")

	// ErrSchemaMissing means that the schema, a table or a column is missing: this release's
	// Migrate was not run.
	ErrSchemaMissing = errors.New("database schema is missing or outdated")
	// ErrSchemaTooNew means that a newer release migrated the schema.
	ErrSchemaTooNew = errors.New("database schema is of a newer version")
	// ErrInvalidURL means that Options cannot be used.
	ErrInvalidURL = errors.New("invalid database URL")
	// ErrAuthentication means that the server refused the user or the password.
	ErrAuthentication = errors.New("database authentication failed")
	// ErrDatabaseMissing means that the server has no database of that name.
	ErrDatabaseMissing = errors.New("database does not exist")
	// ErrUnreachable means that the server cannot be reached, is starting or stopping, has no
	// free connection, or broke the connection. It is unknown whether a write that was in
	// flight happened.
	ErrUnreachable = errors.New("database unreachable")
	// ErrReadOnly means that the database accepts no writes: it is a standby, or transactions
	// are read-only by default. It is an ErrUnreachable too, because it ends by itself.
	ErrReadOnly error = readOnlyError{}
	// ErrUnexpectedAnswer means that the server does not behave as Postgres does: it sent more
	// than an answer may have. The connection was closed.
	ErrUnexpectedAnswer = errors.New("unexpected answer of the database")
	// ErrPrivilege means that the role lacks a right.
	ErrPrivilege = errors.New("insufficient database privileges")
)

type readOnlyError struct{}

func (readOnlyError) Error() string        { return "database is read-only" }
func (readOnlyError) Is(target error) bool { return target == ErrUnreachable }

// StatementTimeout reports whether an error means that the server ended a statement at its
// timeout.
func StatementTimeout(err error) bool {
	var failure *pgconn.PgError
	return errors.As(err, &failure) && failure.Code == "57014"
}

// readOnlyCode is the SQLSTATE of a write in a read-only transaction.
const readOnlyCode = "25006"

// byCode maps SQLSTATE codes, and their classes of two and three characters, to kinds of
// error.
var byCode = map[string]error{
	"22":         ErrInvalidJSON, // data exception
	"54":         ErrTooLarge,    // program limit exceeded
	"28":         ErrAuthentication,
	"3D000":      ErrDatabaseMissing,
	"42501":      ErrPrivilege,
	"3F000":      ErrSchemaMissing, // schema
	"42P01":      ErrSchemaMissing, // table
	"42703":      ErrSchemaMissing, // column
	"08":         ErrUnreachable,
	"53300":      ErrUnreachable, // too many connections
	"57P":        ErrUnreachable, // shutting down or starting up
	"26000":      ErrUnreachable, // no such prepared statement: a pooler took over the address
	"42P05":      ErrUnreachable, // the prepared statement exists: likewise
	readOnlyCode: ErrReadOnly,
}

// Classify wraps an error of pgx so that errors.Is finds its kind among this package's
// sentinels. It returns errors of no kind, classified errors, and the end of the caller's
// context as they are.
func Classify(err error) error {
	if err == nil || classified(err) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok { // it may have megabytes
		pg.Message, pg.Detail = cutText(pg.Message), cutText(pg.Detail)
	}
	kind := kindOf(err)
	if kind == nil {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Detail != "" {
		return fmt.Errorf("%w: %w (%s)", kind, err, strings.TrimSuffix(pg.Detail, "."))
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func kindOf(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		for _, n := range []int{5, 3, 2} {
			if kind := byCode[pg.Code[:min(n, len(pg.Code))]]; kind != nil {
				return kind
			}
		}
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if _, ok := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err); ok || errors.Is(err, errOversized) || errors.Is(err, errIterations) {
		return ErrUnexpectedAnswer
	}
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return ErrInvalidURL
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok && !errors.Is(err, context.Canceled) {
		return ErrUnreachable
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if _, ok := errors.AsType[net.Error](err); ok ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed") {
		return ErrUnreachable
	}
	return nil
}

func classified(err error) bool {
	for _, kind := range []error{
		ErrLeaseLost, ErrNotFound, ErrInvalidJSON, ErrTooLarge, ErrSchemaMissing, ErrSchemaTooNew, ErrInvalidURL,
		ErrAuthentication, ErrDatabaseMissing, ErrUnreachable, ErrReadOnly, ErrPrivilege, ErrUnexpectedAnswer,
		ErrNoSuchApproval, ErrStaleDigest, ErrAlreadyDecided, ErrNotApprover, ErrInvalidDecision, ErrReservedSignal,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// isUniqueViolation reports whether a row exists that the statement wanted to insert. In a
// batch, that is an attempt that was written as New.
func isUniqueViolation(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "23505" // unique violation
}

// isValueError reports whether Postgres refused a value in the statement's arguments. The
// statement would have succeeded without that value.
func isValueError(err error) bool {
	err = Classify(err)
	return errors.Is(err, ErrInvalidJSON) || errors.Is(err, ErrTooLarge)
}

// ServerText returns the text and the SQLSTATE of an error that a server has sent after it
// accepted the login. It returns an empty text for other errors: those of connecting may hold
// parts of the URL.
func ServerText(err error) string {
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
		return ""
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	return ""
}
