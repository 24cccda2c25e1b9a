package property

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/faults"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

var (
	programs         = flag.Uint64("programs", 100, "how many random programs are executed in memory")
	postgresPrograms = flag.Uint64("postgres-programs", 12, "how many random programs are executed on Postgres")
	crashes          = flag.Int("crashes", 4, "how many executions of each program have one crash, at a write taken at random; "+
		"-1 means one before and one after each write")
	seedFlag    = flag.Uint64("seed", 0, "the seed of the random programs; 0 means a new one")
	programFlag = flag.String("program", "", "a program to execute instead of random ones, as JSON")
)

func TestMain(m *testing.M) { testpg.Main(m) }

// seed returns the seed of this test, and says how to get the same programs again.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("seed %d (repeat with -seed=%d)", s, s)
	return s
}

// forEach calls check with random programs, several at a time, until one has failed.
func forEach(t *testing.T, count uint64, check func(p Program) error) {
	t.Helper()
	if *programFlag != "" {
		var p Program
		if err := json.Unmarshal([]byte(*programFlag), &p); err != nil {
			t.Fatalf("-program: %v", err)
		}
		if err := check(p); err != nil {
			t.Fatal(err)
		}
		return
	}
	s := seed(t)
	var next atomic.Uint64
	var failed atomic.Bool
	var tasks sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		tasks.Go(func() {
			for n := next.Add(1); n <= count && !failed.Load(); n = next.Add(1) {
				p := generate(s, n)
				if err := check(p); err != nil && failed.CompareAndSwap(false, true) {
					report(t, s, n, p, err, check)
				}
			}
		})
	}
	tasks.Wait()
}

// report makes a program that has failed smaller, as long as it goes on failing.
func report(t *testing.T, seed, number uint64, p Program, err error, check func(p Program) error) {
	t.Helper()
	const tries = 200
	for left, found := tries, true; found && left > 0; {
		found = false
		for _, smaller := range p.smaller() {
			if left--; left == 0 {
				break
			}
			if e := check(smaller); e != nil {
				p, err, found = smaller, e, true
				break
			}
		}
	}
	text, e := json.Marshal(p)
	if e != nil {
		t.Error(e)
	}
	t.Errorf("program %d of seed %d: %v\nrepeat what is left of it with -program='%s'", number, seed, err, text)
}

// TestMemory_P1_P3_EveryCrashHasTheSameResult executes each program undisturbed, then
// with a crash before or after one write, again and again, then with one before and one
// after every write.
func TestMemory_P1_P3_EveryCrashHasTheSameResult(t *testing.T) {
	t.Parallel()
	w := newMemory()
	t.Cleanup(w.graves.Wait)
	var executions, writes, deaths atomic.Int64
	var mu sync.Mutex
	seen := map[Op]int{}
	completed := 0
	forEach(t, *programs, func(p Program) error {
		base, err := w.execute(p, undisturbed)
		if err != nil {
			return fmt.Errorf("undisturbed: %w", err)
		}
		mu.Lock()
		for _, kind := range p.kinds() {
			seen[kind]++
		}
		if strings.HasPrefix(base.outcome, "completed") {
			completed++
		}
		mu.Unlock()
		again := func(how string, plan faultPlan) error {
			e, err := w.execute(p, plan)
			executions.Add(1)
			writes.Add(int64(e.writes))
			deaths.Add(int64(e.deaths))
			if err == nil && e.outcome != base.outcome {
				err = fmt.Errorf("the run has %s\nundisturbed, it has %s", e.outcome, base.outcome)
			}
			if err != nil {
				err = fmt.Errorf("with %s: %w", how, err)
			}
			return err
		}
		for i := range single(base.writes) {
			at, how := i/2+1, []faults.Strike{faults.Before, faults.After}[i%2]
			if *crashes >= 0 {
				at, how = 1+rand.IntN(base.writes), []faults.Strike{faults.Before, faults.After}[rand.IntN(2)]
			}
			if err := again(fmt.Sprintf("a crash %s write %d", how, at), strikeAt(at, how)); err != nil {
				return err
			}
		}
		for i := range single(base.transactions) / 2 {
			at, how := i/2+1, []faults.Strike{faults.Before, faults.After}[i%2]
			if *crashes >= 0 {
				at = 1 + rand.IntN(base.transactions)
			}
			if err := again(fmt.Sprintf("the end of the process %s transaction %d", how, at), dieAt(at, how)); err != nil {
				return err
			}
		}
		if err := again("crashes before and after every write", storm()); err != nil {
			return err
		}
		return again("the end of the process before and after every write", stops())
	})
	t.Logf("%d executions with crashes, %d writes, %d processes that ended; programs by kind of node: %v; %d completed",
		executions.Load(), writes.Load(), deaths.Load(), seen, completed)
}

// single is how many executions have one crash.
func single(writes int) int {
	if *crashes < 0 {
		return 2 * writes
	}
	return *crashes
}

// TestPostgres_P1_P3_EveryCrashHasTheSameResult compares programs on Postgres with what
// they do in memory.
func TestPostgres_P1_P3_EveryCrashHasTheSameResult(t *testing.T) {
	t.Parallel()
	memory, w := newMemory(), newPostgres(t)
	t.Cleanup(w.graves.Wait)
	forEach(t, *postgresPrograms, func(p Program) error {
		base, err := memory.execute(p, undisturbed)
		if err != nil {
			return fmt.Errorf("undisturbed in memory: %w", err)
		}
		for how, plan := range map[string]faultPlan{
			"undisturbed": undisturbed,
			"with crashes before and after every write":               storm(),
			"with the end of the process before and after each write": stops(),
			"with a crash after the third write":                      strikeAt(3, faults.After),
			"with the end of the process before the fourth":           dieAt(4, faults.Before),
		} {
			e, err := w.execute(p, plan)
			if err == nil && e.outcome != base.outcome {
				err = fmt.Errorf("the run has %s\nin memory, it has %s", e.outcome, base.outcome)
			}
			if err != nil {
				return fmt.Errorf("%s on Postgres: %w", how, err)
			}
		}
		return nil
	})
}

// newPostgres is the world in which time passes as it does.
func newPostgres(t *testing.T) *world {
	t.Helper()
	url := testpg.New(t)
	migrated, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(migrated.Close)
	if err := migrated.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &world{
		interpreter: newInterpreter(5 * time.Millisecond),
		patience:    5 * time.Minute,
		options:     runner.Options{PollInterval: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)},
		uncounted:   true,
		open: func([]openworkflow.Definition) (database, func(context.Context, string) error, func(), error) {
			db, err := store.Open(context.Background(), store.Options{URL: url, NamespaceID: openworkflow.NewID(), MaxConns: 6})
			if err != nil {
				return nil, nil, nil, err
			}
			return db, func(ctx context.Context, id string) error { return awaitEnd(ctx, db, id) }, db.Close, nil
		},
	}
}
