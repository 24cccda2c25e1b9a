package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// OwnerError is an ErrPrivilege of Migrate: only a table's owner may add an index to it, and
// another role owns it.
type OwnerError struct {
	// Table is schema-qualified and quoted. Owner and User are role names.
	Table, Owner, User string
	cause              error
}

// Error says what to execute, and as whom.
func (e *OwnerError) Error() string {
	owner, user := pgx.Identifier{e.Owner}.Sanitize(), pgx.Identifier{e.User}.Sanitize()
	return fmt.Sprintf("the table %s is owned by the role %s, and the user is %s; as a superuser, execute GRANT %s TO %s; "+
		"or ALTER TABLE %s OWNER TO %s; for each table of the schema", e.Table, owner, user, owner, user, e.Table, user)
}

// Unwrap returns the error of the database, which is an ErrPrivilege.
func (e *OwnerError) Unwrap() error { return e.cause }

// foreignTableSQL returns a table of the schema whose owner's rights the user does not have.
const foreignTableSQL = `
SELECT c.relname, pg_get_userbyid(c.relowner), current_user
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY c.relname = 'workflow_runs' DESC, c.relname
LIMIT 1`

// explainOwner returns an OwnerError if that is what an ErrPrivilege is about.
func (s *Store) explainOwner(ctx context.Context, err error) error {
	if !errors.Is(err, ErrPrivilege) {
		return err
	}
	e := &OwnerError{cause: err}
	var name string
	if s.pool.QueryRow(ctx, foreignTableSQL, s.schema).Scan(&name, &e.Owner, &e.User) != nil {
		return err
	}
	e.Table = pgx.Identifier{s.schema, name}.Sanitize()
	return e
}
