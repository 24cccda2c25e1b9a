package testpg

import (
	"fmt"
	"testing"
	"time"
)

// clockSQL makes unqualified calls find functions of the schema "skewed" before those of the
// server. A new session has the path; CURRENT_TIMESTAMP, which is no function, does not follow.
const clockSQL = `
CREATE SCHEMA skewed;
CREATE FUNCTION skewed.now() RETURNS timestamptz STABLE LANGUAGE sql
	AS $$ SELECT pg_catalog.now() + interval '%[1]d microseconds' $$;
CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
	AS $$ SELECT pg_catalog.clock_timestamp() + interval '%[1]d microseconds' $$;
GRANT USAGE ON SCHEMA skewed TO PUBLIC;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET search_path = skewed, pg_catalog, public', current_database()); END $$`

// SetClock makes the clock of a database ahead of the machine's, or behind it, for all sessions
// that begin after the call. The URL is one of New's.
func SetClock(t testing.TB, url string, ahead time.Duration) {
	t.Helper()
	run(t, url, fmt.Sprintf(clockSQL, ahead.Microseconds()))
	t.Cleanup(func() {
		run(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET search_path', current_database()); END $$`)
	})
}
