package testpg

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	superuser = "postgres"
	password  = "test"
	// dirPrefix and the process id name the directories of servers.
	dirPrefix = "openworkflow-testpg-"
	// startTimeout is generous: machines that run tests are busy.
	startTimeout = time.Minute
)

// settings make the server fast. Commits are not flushed to disk: they survive a crash of the
// server, not of the machine.
var settings = []string{
	"fsync=off", "full_page_writes=off", "max_connections=300", "shared_buffers=64MB",
	"listen_addresses=127.0.0.1", "log_min_messages=warning", "log_statement=none",
}

// Server is a Postgres of a test's own, which may be stopped and started.
type Server struct {
	dir, bin string
	port     int
	settings []string // on top of the package's
	identity *syscall.Credential

	process *os.Process
	exited  chan struct{}
	log     *bytes.Buffer
}

// Start starts a server that no other test uses, and removes it when the test ends. Its
// database "postgres" is empty. Settings, such as "fsync=on", override those that make tests
// fast.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := newServer(settings...)
	if err != nil {
		t.Fatalf("Start Postgres for the test: %v", err)
	}
	t.Cleanup(s.remove)
	return s
}

// URL returns the address of the server's database "postgres", for its superuser. It does not
// change when the server is stopped and started.
func (s *Server) URL() string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", superuser, password, s.port)
}

// PID returns the process id of the server, the parent of its backends. It is 0 while
// the server is stopped.
func (s *Server) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.Pid
}

// Stop ends the server and breaks all its connections. No acknowledged commit is lost. The
// server stays stopped until Start.
func (s *Server) Stop() { s.signal(syscall.SIGINT) }

// Crash ends the server without a shutdown, so that it recovers when it is started.
func (s *Server) Crash() { s.signal(syscall.SIGQUIT) }

func (s *Server) signal(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Signal(sig)
	<-s.exited
	s.process = nil
}

// Start starts a stopped server and returns when it accepts connections.
func (s *Server) Start() error {
	if s.process != nil {
		return nil
	}
	args := []string{"-D", filepath.Join(s.dir, "data"), "-p", strconv.Itoa(s.port), "-k", s.dir}
	for _, setting := range slices.Concat(settings, s.settings) {
		args = append(args, "-c", setting)
	}
	s.log = &bytes.Buffer{}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...) //nolint:noctx // outlives any one context
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, s.log, s.log
	// SIGQUIT makes the server end at once, with all its children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT, Credential: s.identity}
	exited, err := launch(cmd)
	if err != nil {
		return err
	}
	s.process, s.exited = cmd.Process, exited
	if err := waitAccepting(s.URL(), s.exited); err != nil {
		s.Crash()
		return fmt.Errorf("%w\n%s", err, s.log)
	}
	return nil
}

// launch starts a program. The channel is closed when it has ended.
func launch(cmd *exec.Cmd) (exited chan struct{}, err error) {
	started := make(chan error, 1)
	exited = make(chan struct{})
	go func() {
		// The kernel sends the death signal when the thread that started the process ends,
		// so this thread must live as long as the process. It stays locked, so it ends with
		// the goroutine.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	return exited, <-started
}

func (s *Server) remove() {
	s.Crash()
	_ = os.RemoveAll(s.dir)
}

// newServer creates a data directory and starts a server on it.
func newServer(settings ...string) (*Server, error) {
	return newServerFrom((*Server).initialize, settings...)
}

// newServerFrom starts a server on the data directory that create makes.
func newServerFrom(create func(*Server) error, settings ...string) (*Server, error) {
	removeStale()
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings}
	if s.identity, err = identity(); err != nil {
		return nil, err
	}
	if s.dir, err = newDir(s.identity); err != nil {
		return nil, err
	}
	if err := create(s); err != nil {
		s.remove()
		return nil, err
	}
	// Another process may take the free port first; then the server exits.
	for range 5 {
		if s.port, err = freePort(); err != nil {
			break
		}
		if err = s.Start(); err == nil {
			return s, nil
		}
	}
	s.remove()
	return nil, err
}

// newDir creates a directory of this identity, which the next test process removes if this one
// does not.
func newDir(owner *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err == nil && owner != nil {
		err = os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	return dir, err
}

func (s *Server) initialize() error {
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(password), 0o644); err != nil { //nolint:gosec // a test's password
		return err
	}
	cmd := exec.Command(filepath.Join(s.bin, "initdb"), //nolint:noctx // short
		"-D", filepath.Join(s.dir, "data"), "-U", superuser, "--pwfile", secret,
		"--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.identity}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// binaries returns the directory of Postgres' programs: TEST_POSTGRES_BIN, or else
// that of the newest Postgres of the machine.
func binaries() (string, error) {
	if dir := os.Getenv("TEST_POSTGRES_BIN"); dir != "" {
		return dir, nil
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(dirs) > 0 {
		version := func(i int) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(dirs[i]))))
			return n
		}
		sort.Slice(dirs, func(i, j int) bool { return version(i) > version(j) })
		return filepath.Dir(dirs[0]), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("no Postgres on this machine: install postgresql, or set TEST_POSTGRES_URL")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// identity returns the user that Postgres runs as if we are root, which Postgres refuses: the
// package's user, or nobody.
func identity() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no change of identity
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// freePort returns a port below those that the kernel chooses by itself. So no other program gets it by
// chance while a server is down that is started again.
func freePort() (port int, err error) {
	for range 100 {
		port = 20_000 + rand.IntN(12_000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil { //nolint:noctx // local
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// removeStale removes the directories of test processes that were killed.
func removeStale() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
}
