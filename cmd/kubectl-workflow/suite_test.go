package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi"
	"github.com/openworkflow-operator/operator/internal/dataapi/dataapitest"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

var update = flag.Bool("update", false, "write the golden files")

// cluster is the API server and the data API of all tests. Each test has its own namespace and
// database.
var cluster dataapitest.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	testpg.Main(m, cluster.Stop)
}

// serve returns what serves the data API.
func serve(s dataapitest.Serving) (func(context.Context), error) {
	databases := &dataapi.Databases{Backends: s.Admin, Secrets: s.Admin, Open: func(ctx context.Context, o store.Options) (*store.Store, error) {
		return store.Open(ctx, o)
	}}
	server, err := dataapi.New(databases, dataapi.Options{Listener: s.Listener, Certificate: s.Certificate, Config: s.Config, Cluster: dataapitest.ClusterUID})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		var running sync.WaitGroup
		running.Go(func() { _ = databases.Start(ctx) })
		_ = server.Start(ctx)
		running.Wait()
	}, nil
}

// noon is the time of a command line in tests, so that ages are fixed.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a test's own namespace, and a user of it with the rights of the ClusterRole edit.
type world struct {
	*dataapitest.World
	t          *testing.T
	kubeconfig string
}

func setup(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	cluster.Start(t, "../..", serve)
	w := &world{World: cluster.NewWorld(t), t: t}
	w.kubeconfig = w.user("editor", editorRules...)
	return w
}

// editorRules are the rights to runs in the ClusterRoles openworkflow-editor and
// openworkflow-data-editor, and those to pods in edit.
var editorRules = []rbacv1.PolicyRule{
	{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"backends", "workerpools", "workflowruns", "workflowsignals"},
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"}},
	{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"*"}, Verbs: []string{"get", "list", "create"}},
	{APIGroups: []string{""}, Resources: []string{"pods", "pods/log", "events"}, Verbs: []string{"get", "list", "watch"}},
}

// rule allows a verb on resources of the data API.
func rule(verb string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Verbs: []string{verb}, Resources: resources}
}

// user grants rights in the namespace to a new user, and returns their kubeconfig.
func (w *world) user(name string, rules ...rbacv1.PolicyRule) string {
	w.t.Helper()
	name += "-" + w.Namespace
	if len(rules) > 0 {
		w.Grant(name, rules...)
	}
	return w.write(w.User(name))
}

// write writes the kubeconfig of a user.
func (w *world) write(user *envtest.AuthenticatedUser) string {
	w.t.Helper()
	content, err := user.KubeConfig()
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// admin returns a kubeconfig with all rights in the cluster.
func (w *world) admin() string {
	w.t.Helper()
	user, err := cluster.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.write(user)
}

// result is what a command line has printed.
type result struct {
	out, errOut string
	code        int
}

// run executes a command line in the namespace, at noon.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.runAs(w.kubeconfig, "", args...)
}

// runAs executes a command line as another user, with an input.
func (w *world) runAs(kubeconfig, in string, args ...string) result {
	w.t.Helper()
	var out, errOut bytes.Buffer
	code := w.execute(kubeconfig, genericiooptions.IOStreams{In: strings.NewReader(in), Out: &out, ErrOut: &errOut}, args)
	return result{out: out.String(), errOut: errOut.String(), code: code}
}

func (w *world) execute(kubeconfig string, streams genericiooptions.IOStreams, args []string) int {
	f := &factory{
		IOStreams: streams,
		config:    genericclioptions.NewConfigFlags(true),
		now:       func() time.Time { return noon },
		reach: func(_ context.Context, user *rest.Config, _ string) (*rest.Config, error) {
			return cluster.DataAs(user), nil
		},
	}
	return run(w.t.Context(), f, append([]string{"--kubeconfig", kubeconfig, "-n", w.Namespace}, args...))
}

// follow executes a command line that goes on. Its lines come one by one; exit returns the exit
// code and what else was printed.
func (w *world) follow(args ...string) (next func() string, exit func() result) {
	w.t.Helper()
	read, write := io.Pipe()
	w.t.Cleanup(func() { _ = read.Close() })
	var errOut bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- w.execute(w.kubeconfig, genericiooptions.IOStreams{In: strings.NewReader(""), Out: write, ErrOut: &errOut}, args)
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	next = func() string {
		if !lines.Scan() {
			w.t.Fatalf("%v ended: exit code %d, %s", args, <-code, &errOut)
		}
		return lines.Text()
	}
	exit = func() result {
		rest, _ := io.ReadAll(read)
		for lines.Scan() {
			rest = append(rest, lines.Text()+"\n"...)
		}
		return result{out: string(rest), code: <-code, errOut: errOut.String()}
	}
	return next, exit
}

// exec executes a statement in the test's database.
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	if _, err := conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// instants are the times in an output.
var instants = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// golden compares a text with a file, in which the test's namespace has a fixed name, and times
// since the test's start are NOW.
func (w *world) golden(name, got string) {
	w.t.Helper()
	got = instants.ReplaceAllStringFunc(got, func(text string) string {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && time.Since(at).Abs() < time.Hour {
			return "NOW"
		}
		return text
	})
	golden(w.t, name, strings.ReplaceAll(got, w.Namespace, "test-namespace"[:len(w.Namespace)]))
}

// golden compares a text with testdata/NAME.golden, which -update writes.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it by -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), refreshed by -update:\n%s", path, diff)
	}
}

// formats are those in which every verb prints. The empty one is a table.
var formats = []string{"", "wide", "name", "json", "yaml"}

// goldens runs a command line in every format, and compares the outputs with golden files.
func (w *world) goldens(name string, args ...string) {
	w.t.Helper()
	for _, format := range formats {
		file, line := name+"_table", args
		if format != "" {
			file, line = name+"_"+format, append(append([]string{}, args...), "-o", format)
		}
		got := w.run(line...)
		if got.code != codeDone || got.errOut != "" {
			w.t.Errorf("%v: exit code %d, %s", line, got.code, got.errOut)
			continue
		}
		w.golden(file, got.out)
	}
}

// fails checks the exit code and the message of a command line.
func (w *world) fails(code int, message string, args ...string) {
	w.t.Helper()
	got := w.run(args...)
	if got.code != code || !strings.Contains(got.errOut, message) {
		w.t.Errorf("%v: exit code %d and %q; want %d and %q", args, got.code, got.errOut, code, message)
	}
	if strings.Contains(got.errOut, "Usage:") {
		w.t.Errorf("%v: the message is buried in the usage:\n%s", args, got.errOut)
	}
}
