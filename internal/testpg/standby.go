package testpg

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// StartStandby starts a standby of the server, which follows it and is read-only until Promote.
func (s *Server) StartStandby(t testing.TB) *Server {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.bin, "pg_basebackup")); err != nil && os.Getenv("TEST_POSTGRES_BIN") != "" {
		t.Skip("the programs in TEST_POSTGRES_BIN lack pg_basebackup; Debian's Postgres runs this test")
	}
	standby, err := newServerFrom(s.copyTo, s.settings...)
	if err != nil {
		t.Fatalf("Start a standby for the test: %v", err)
	}
	t.Cleanup(standby.remove)
	return standby
}

// Promote makes a standby a primary of its own. It returns when the server accepts writes.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	run(t, s.URL(), `SELECT pg_promote()`)
}

// copyTo makes the data directory of a standby.
func (s *Server) copyTo(standby *Server) error {
	cmd := exec.Command(filepath.Join(s.bin, "pg_basebackup"), //nolint:noctx // short
		"-D", filepath.Join(standby.dir, "data"), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", superuser,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	cmd.Dir = standby.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: standby.identity}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	return nil
}
