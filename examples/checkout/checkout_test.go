package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// P1: the worker is killed between charge and email; the card is charged once and
// the email is sent.
func TestP1KilledWorkerChargesEachCardOnce(t *testing.T) {
	t.Parallel()
	charges, emails := killBetweenChargeAndEmail(t, build(t))
	for order, n := range charges {
		if n != 1 {
			t.Errorf("the card of %s was charged %d times", order, n)
		}
	}
	for order, n := range emails {
		if n != 1 {
			t.Errorf("%d emails were sent for %s", n, order)
		}
	}
	if len(charges) != orders || len(emails) != orders {
		t.Errorf("%d cards were charged and %d customers got an email, want %d", len(charges), len(emails), orders)
	}
}

// The check above can fail: with memoization switched off the same crash charges
// cards again.
func TestWithoutMemoizationTheSameCrashChargesTwice(t *testing.T) {
	t.Parallel()
	charges, _ := killBetweenChargeAndEmail(t, build(t, "-tags", "openworkflow_forget"))
	for _, n := range charges {
		if n > 1 {
			return
		}
	}
	t.Errorf("no card was charged twice: %v", charges)
}

const (
	orders      = 10
	concurrency = 5
)

// killBetweenChargeAndEmail runs the orders on a worker process that is killed while
// its first runs have charged their cards and not yet sent their emails, then on
// its successor. It returns the charges and the emails of each order.
func killBetweenChargeAndEmail(t *testing.T, program string) (charges, emails map[string]int) {
	t.Helper()
	url := testpg.New(t)
	database, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(database.Close)
	s, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var runs []store.NewRun
	for i := range orders {
		input, err := json.Marshal(Order{OrderID: fmt.Sprintf("order-%d", i), AmountCents: 4999, Currency: "EUR", Email: "ada@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, store.NewRun{ID: openworkflow.NewID(), WorkflowName: "checkout", Input: input})
	}
	if _, err := s.CreateRuns(t.Context(), runs); err != nil {
		t.Fatal(err)
	}

	first := start(t, program, url)
	await(t, database, concurrency, `
		SELECT count(*) FROM openworkflow.step_attempts a
		JOIN openworkflow.workflow_runs r ON r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id
		WHERE a.step_name = 'charge-card' AND a.status = 'completed' AND r.status = 'running'`)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	start(t, program, url)
	await(t, database, orders, `SELECT count(*) FROM openworkflow.workflow_runs WHERE status = 'completed'`)
	return count(t, database, `SELECT order_id FROM checkout_ledger`), count(t, database, `SELECT order_id FROM checkout_mailbox`)
}

// build compiles the worker as its users would.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "checkout")
	command := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", program}, append(flags, ".")...)...)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return program
}

// start starts the worker as the pod of always the same uid, and kills it at the end
// of the test.
func start(t *testing.T, program, url string) *exec.Cmd {
	t.Helper()
	command := exec.Command(program) //nolint:noctx // it is killed by its caller or at the end of the test
	command.Env = append(os.Environ(),
		"OPENWORKFLOW_POSTGRES_URL="+url,
		fmt.Sprintf("OPENWORKFLOW_CONCURRENCY=%d", concurrency),
		"POD_UID=7d9c1d60-0000-4000-8000-000000000001",
		"CHECKOUT_MAIL_LATENCY=1s",
	)
	command.Stderr = t.Output()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return command
}

// await waits until a count is at least n.
func await(t *testing.T, database *pgxpool.Pool, n int, query string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	var got int
	for got < n {
		if err := database.QueryRow(ctx, query).Scan(&got); err != nil {
			t.Fatalf("waiting for %d rows, there are %d: %v", n, got, err)
		}
		<-ticker.C
	}
}

func count(t *testing.T, database *pgxpool.Pool, query string) map[string]int {
	t.Helper()
	rows, err := database.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var order string
		if err := rows.Scan(&order); err != nil {
			t.Fatal(err)
		}
		counts[order]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return counts
}
