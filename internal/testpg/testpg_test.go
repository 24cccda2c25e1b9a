package testpg_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var result string
	if err := conn.QueryRow(t.Context(), sql).Scan(&result); err != nil {
		t.Fatal(err)
	}
	return result
}

func TestNew_GivesDatabasesOfTheirOwn(t *testing.T) {
	t.Parallel()
	a, b := testpg.New(t), testpg.New(t)
	if x, y := query(t, a, `SELECT current_database()`), query(t, b, `SELECT current_database()`); x == y {
		t.Errorf("both are %s", x)
	}
}

func TestServer_KeepsCommitsOverStopAndCrash(t *testing.T) {
	t.Parallel()
	s := testpg.Start(t)
	query(t, s.URL(), `WITH x AS (SELECT lo_from_bytea(4711, 'kept')) SELECT 'done' FROM x`)
	for _, end := range []func(){s.Stop, s.Crash} {
		end()
		if conn, err := pgx.Connect(t.Context(), s.URL()); err == nil {
			_ = conn.Close(t.Context())
			t.Fatal("a stopped server accepts connections")
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		if got := query(t, s.URL(), `SELECT convert_from(lo_get(4711), 'UTF8')`); got != "kept" {
			t.Errorf("found %q, want it kept", got)
		}
	}
}

func TestLink_HangsTheConnectionsOfNowOnly(t *testing.T) {
	t.Parallel()
	link := testpg.NewLink(t, testpg.New(t))
	conn, err := pgx.Connect(t.Context(), link.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var one int
	if err := conn.QueryRow(t.Context(), `SELECT 1`).Scan(&one); err != nil {
		t.Fatal(err)
	}
	link.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := conn.QueryRow(ctx, `SELECT 1`).Scan(&one); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a query on a connection that hangs ended with %v", err)
	}
	query(t, link.URL, `SELECT 'new'`)
}
