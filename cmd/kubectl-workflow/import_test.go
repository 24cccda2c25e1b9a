package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// A run that is exported from one namespace and imported into the database of another one is
// exported there as the same document with its lineage, but for the namespace, the object, and the link to a child
// that is not there.
func TestImport_P1_KeepsTheHistory(t *testing.T) {
	from, to := setup(t), &world{}
	from.history()
	from.exec(`UPDATE openworkflow.workflow_runs SET config = '{"openworkflow.dev/forkedFrom": "gone", "openworkflow.dev/forkStep": "charge"}' WHERE id IN ($1, $2)`,
		runSeq(1), runSeq(2))
	to.World, to.t = cluster.NewWorld(t), t
	to.kubeconfig = to.user("editor", editorRules...)
	for i, state := range []string{"Failed", "Completed", "Pending"} { // in this order: the database lacks the child of run 2
		n := i + 1
		exported := from.run("export", runSeq(n)).out
		file := filepath.Join(t.TempDir(), "run.json")
		if err := os.WriteFile(file, []byte(exported), 0o600); err != nil {
			t.Fatal(err)
		}
		load := []string{"import", file, "--database-url", to.URL, "--namespace-id", to.Namespace}
		if got := to.run(load...); got.out != "run.data.openworkflow.dev/"+runSeq(n)+" imported\n" || got.code != codeDone {
			t.Fatalf("run %d: %+v", n, got)
		}
		to.fails(codeError, "the database has a run "+runSeq(n)+" already: it was left as it is", load...)
		if state == "Pending" { // a waiting run is suspended
			if got := to.run("describe", runSeq(n)); !strings.Contains(got.out, "suspended") && !strings.Contains(got.out, "Suspended") {
				t.Errorf("run %d is not suspended:\n%s", n, got.out)
			}
			continue
		}
		want := strings.NewReplacer(from.Namespace, to.Namespace,
			`            "child": "`+runSeq(3)+"\",\n", "", ",\n        \"object\": \"order-1001\"", "").Replace(exported)
		if diff := cmp.Diff(want, to.run("export", runSeq(n)).out); diff != "" {
			t.Errorf("run %d (-exported +imported):\n%s", n, diff)
		}
	}
}

func TestImport_MigratesAndResumes(t *testing.T) {
	w := setup(t)
	w.history()
	url := testpg.New(t)
	exported := w.run("export", runSeq(5), "-o", "yaml").out
	load := []string{"import", "-", "--database-url", url}
	if got := w.runAs(w.kubeconfig, exported, load...); got.code != codeError || !strings.Contains(got.errOut, "--migrate creates them") {
		t.Errorf("into an empty database: %+v", got)
	}
	if got := w.runAs(w.kubeconfig, exported, append(load, "--migrate", "--resume")...); got.code != codeDone {
		t.Fatalf("with --migrate: %+v", got)
	}
	db, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	runs, err := db.RunStates(t.Context(), []string{runSeq(5)})
	if err != nil || runs[runSeq(5)] == nil || runs[runSeq(5)].SuspendedAt != nil {
		t.Errorf("imported %+v, %v", runs[runSeq(5)], err)
	}
}

func TestImport_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	head := `{"apiVersion": "data.openworkflow.dev/v1alpha1", "kind": "RunHistory"`
	for _, test := range []struct{ in, message string }{
		{`{`, "- is neither JSON nor YAML of a RunHistory"},
		{`{"kind": "Pod", "apiVersion": "v1"}`, `- has the kind "Pod" of "v1", not a RunHistory of "data.openworkflow.dev/v1alpha1"`},
		{head + `}`, "- names no run: metadata.name and spec.workflowName are required"},
		{head + `, "metadata": {"name": "a"}, "spec": {"workflowName": "b"}, "status": {"state": "Done"}}`, `status.state is "Done": it is one of Pending, Running`},
		{head + `, "metadata": {"name": "a"}, "spec": {"workflowName": "b"}, "continue": "c"}`, "- is one page of a history"},
	} {
		got := w.runAs(w.kubeconfig, test.in, "import", "-", "--database-url", w.URL)
		if got.code != codeError || !strings.Contains(got.errOut, test.message) {
			t.Errorf("%s: %+v, want %q", test.in, got, test.message)
		}
	}
	w.fails(codeError, "name the database by --database-url or OPENWORKFLOW_POSTGRES_URL", "import", "-", "--database-url", "")
	w.fails(codeError, "no such file", "import", "/nowhere", "--database-url", w.URL)
	secret := w.runAs(w.kubeconfig, head+`, "metadata": {"name": "a"}, "spec": {"workflowName": "b"}, "status": {"state": "Failed"}}`,
		"import", "-", "--database-url", "postgres://u:hunter2@127.0.0.1:1/x")
	if secret.code == codeDone || strings.Contains(secret.errOut, "hunter2") {
		t.Errorf("an error with a password in it: %+v", secret)
	}
}
