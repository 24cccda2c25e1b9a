package testpg

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PoolMode says when PgBouncer gives a server's session to another client.
type PoolMode string

// The modes of PgBouncer: after each transaction, or when the client is gone.
const (
	TransactionMode PoolMode = "transaction"
	SessionMode     PoolMode = "session"
)

// StartPooler starts PgBouncer before the database of a URL, and stops it when the test ends. It
// has up to poolSize sessions in the server. It returns the URL of the database through it.
func StartPooler(t testing.TB, database string, mode PoolMode, poolSize int) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	owner, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := newDir(owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := u.User.Password()
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = %d
max_client_conn = 1000
`, u.Hostname(), u.Port(), u.User.Username(), secret, port, mode, poolSize)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil { //nolint:gosec // a test's password
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	cmd := exec.Command(program, config) //nolint:noctx // ends with the test
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: owner}
	exited, err := launch(cmd)
	if err != nil {
		t.Fatalf("Start PgBouncer for the test, see hack/require.sh pgbouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	u.Host = "127.0.0.1:" + strconv.Itoa(port)
	if err := waitAccepting(u.String(), exited); err != nil {
		_ = cmd.Process.Kill()
		<-exited
		t.Fatalf("PgBouncer: %v\n%s", err, log)
	}
	return u.String()
}

// waitAccepting returns when the URL accepts connections.
func waitAccepting(url string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-exited:
			return fmt.Errorf("it exited: %w", err)
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
