//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// durable are the settings of the servers that are measured: Postgres' defaults for safety,
// and so much room for the log that no checkpoint starts by itself during a measurement.
var durable = []string{
	"fsync=on", "full_page_writes=on", "synchronous_commit=on", "shared_buffers=1GB",
	"max_wal_size=8GB", "checkpoint_timeout=30min",
}

// slowFlush imitates a disk that takes 2 ms to acknowledge a flush: Postgres waits that long
// before each flush, and still flushes.
var slowFlush = []string{"commit_delay=2000", "commit_siblings=0"}

// observed counts statements, which slows them down a little.
var observed = []string{"shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=top"}

// disk is a Postgres to measure on.
type disk struct {
	name   string
	server *testpg.Server
	admin  *pgx.Conn
	bases  int
	// connecting is the CPU time for the baseline's connections, by their number.
	connecting map[int]rate
}

func startDisk(t *testing.T, name string, settings ...string) *disk {
	t.Helper()
	d := &disk{name: name, connecting: map[int]rate{}, server: testpg.Start(t, append(slices.Clip(durable), settings...)...)}
	d.admin = connect(t, d.server.URL())
	d.baseline(t)
	return d
}

// connect returns a connection that is closed with the test.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("Connect to Postgres: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// base is a database with OpenWorkflow's tables.
type base struct {
	*disk
	t    testing.TB
	url  string
	name string
	// conn is for the test's own queries; their plans never read a whole table.
	conn *pgx.Conn
	// client is nil for a database without our tables.
	client *client.Client
}

// newBase creates a database. The caller drops it, to free the disk.
func (d *disk) newBase(t testing.TB) *base {
	t.Helper()
	b := d.emptyBase(t)
	var err error
	if b.client, err = client.Open(t.Context(), client.Config{PostgresURL: b.url, Migrate: true}); err != nil {
		t.Fatal(err)
	}
	return b
}

// emptyBase creates a database without tables, for peers.
func (d *disk) emptyBase(t testing.TB) *base {
	t.Helper()
	d.bases++
	b := &base{disk: d, t: t, name: fmt.Sprintf("bench_%d", d.bases)}
	d.exec(t, `CREATE DATABASE `+b.name)
	u, err := url.Parse(d.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + b.name
	b.url = u.String()
	b.conn = connect(t, b.url)
	b.exec(`SET enable_seqscan = off`)
	return b
}

// drop removes the database.
func (b *base) drop() {
	b.t.Helper()
	if b.client != nil {
		b.client.Close()
	}
	_ = b.conn.Close(context.Background())
	b.disk.exec(b.t, `DROP DATABASE `+b.name+` WITH (FORCE)`)
}

func (d *disk) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := d.admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (b *base) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// scan runs a query that returns one row.
func (b *base) scan(sql string, args []any, into ...any) {
	b.t.Helper()
	if err := b.conn.QueryRow(b.t.Context(), sql, args...).Scan(into...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// await polls until ready, or fails the test when the time is over.
func (b *base) await(what string, within time.Duration, ready func() bool) {
	b.t.Helper()
	const interval = 200 * time.Millisecond // polling costs Postgres a little, too
	look := time.NewTicker(interval)
	defer look.Stop()
	deadline := time.After(within)
	for !ready() {
		select {
		case <-look.C:
		case <-deadline:
			b.t.Fatalf("After %s still no %s", within, what)
		case <-b.t.Context().Done():
			b.t.Fatalf("Interrupted while waiting for %s", what)
		}
	}
}

// awaitCalm returns a count once it has not changed for longer than any timer of the manager
// that leads to a report.
func (b *base) awaitCalm(count func() float64) float64 {
	b.t.Helper()
	const calm = 10 * time.Second
	last, since := count(), time.Now()
	b.await("calm", patience, func() bool {
		if now := count(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > calm
	})
	return last
}

// patience bounds the time that a load may take, on a busy machine.
const patience = 15 * time.Minute

// usage is what Postgres has used since its start.
type usage struct {
	cpu time.Duration
	// wal is the position in the write-ahead log, in bytes.
	wal float64
	// flushes of the log and commits are counted with a delay: a connection adds its own
	// within a second while it is busy, and when it ends.
	flushes, commits float64
}

func (u usage) less(v usage) usage {
	return usage{u.cpu - v.cpu, u.wal - v.wal, u.flushes - v.flushes, u.commits - v.commits}
}

// usage reads the counters of the server and of the database.
func (b *base) usage() usage {
	b.t.Helper()
	u := usage{cpu: processorTime(b.t, b.server.PID())}
	b.scan(`SELECT pg_current_wal_insert_lsn() - '0/0'`, nil, &u.wal)
	b.scan(`SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`, nil, &u.commits)
	b.scan(`SELECT wal_sync FROM pg_stat_wal`, nil, &u.flushes)
	return u
}

// clockTick is the unit of times in /proc, the same on all Linux machines.
const clockTick = 10 * time.Millisecond

// processorTime is the CPU time of a process, of its children and of those that
// have ended.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	ticks := stat.own + stat.reaped
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range processes {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		switch stat, err := readStat(child); {
		case errors.Is(err, fs.ErrNotExist): // it has just ended
		case err == nil && stat.parent == pid:
			ticks += stat.own + stat.reaped
		}
	}
	return time.Duration(ticks) * clockTick
}

type processStat struct {
	parent      int
	own, reaped int // clock ticks
}

func readStat(pid int) (processStat, error) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return processStat{}, err
	}
	// The name of the command, in parentheses, may have blanks.
	text := string(content)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	number := func(i int) int {
		n, _ := strconv.Atoi(fields[i])
		return n
	}
	// Field 0 is the state, the third of proc(5).
	return processStat{parent: number(1), own: number(11) + number(12), reaped: number(13) + number(14)}, nil
}

// resident is the memory of a process in bytes.
func resident(t testing.TB, pid int) float64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(content))[1])
	return float64(pages * os.Getpagesize())
}
