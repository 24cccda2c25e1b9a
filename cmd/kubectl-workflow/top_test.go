package main

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestTop_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("top", "top", "--sort-by", "runnable")
}

func TestTop_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, `--sort-by "age": use one of name, runnable, running, failed`, "top", "--sort-by", "age")
	w.fails(codeError, `unknown command "x"`, "top", "x")
	if got := w.run("top"); got.code != codeDone || !strings.Contains(got.errOut, "No workflows found in namespace "+w.Namespace) {
		t.Errorf("without workflows: %+v", got)
	}
}

func TestPools_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	for _, name := range []string{"shop", "mail"} {
		pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: name}, Spec: v1alpha1.WorkerPoolSpec{
			Template: runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"worker","image":"example.test/shop:1"}]}}`)},
			Replicas: new(int32(3)), Concurrency: new(int32(5)),
		}}
		w.Create(pool)
		pool.Status.ReadyReplicas = new(int32(2))
		for _, served := range []string{"a", "b", "c", "d", "e"} {
			pool.Status.Workflows = append(pool.Status.Workflows, v1alpha1.ServedWorkflow{Name: served, Version: "2"})
		}
		if err := cluster.Admin.Status().Update(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"", "wide"} { // ages and uids differ from run to run
		got := w.run("pools", "-o", format)
		for _, want := range []string{"mail", "shop", "2/3", "10", "NotObserved", "a@2, b@2, c@2, d@2"} {
			if !strings.Contains(got.out, want) {
				t.Errorf("-o %q lacks %q:\n%s%s", format, want, got.out, got.errOut)
			}
		}
		if all := strings.Contains(got.out, "e@2"); all != (format == "wide") {
			t.Errorf("-o %q shows all workflows: %v", format, all)
		}
	}
	w.golden("pools_name", w.run("pools", "-o", "name").out)
	for format, want := range map[string]string{"json": `"concurrency": 5`, "yaml": "concurrency: 5"} {
		if got := w.run("pools", "-o", format); got.code != codeDone || strings.Count(got.out, want) != 2 {
			t.Errorf("-o %s: %+v", format, got)
		}
	}
}

func TestDoctor_ChecksAWholeNamespace(t *testing.T) {
	w := setup(t)
	got := w.run("doctor", "--no-headers")
	for _, want := range []string{"the custom resources of openworkflow.dev/v1alpha1 are installed", "you may use all verbs in this namespace",
		"the data API answers", "all migrations of this release are applied", "the login has the rights that the manager needs"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("the output lacks %q:\n%s%s", want, got.out, got.errOut)
		}
	}
	if got.code != codeError || !strings.Contains(got.out, "NotObserved: not seen by the manager yet") { // no manager runs in this test
		t.Errorf("exit code %d:\n%s", got.code, got.out)
	}
	viewer := w.user("viewer", rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"diagnoses"}, Verbs: []string{"list"}})
	if got := w.runAs(viewer, "", "doctor"); !strings.Contains(got.out, "you may not list workflowruns, list workerpools, list runs") {
		t.Errorf("a viewer's rights:\n%s%s", got.out, got.errOut)
	}
	stranger := w.runAs(w.user("stranger"), "", "doctor", "-o", "json")
	if stranger.code != codeError || !strings.Contains(stranger.out, `"name": "data-api"`) || !strings.Contains(stranger.out, "is forbidden") {
		t.Errorf("without rights: %+v", stranger)
	}
}

func TestDoctor_PrintsEveryFormat(t *testing.T) {
	t.Parallel()
	list := &datav1alpha1.DiagnosisList{Items: []datav1alpha1.Diagnosis{
		{ObjectMeta: metav1.ObjectMeta{Name: installation}, Outcome: datav1alpha1.CheckOK, Checks: []datav1alpha1.Check{
			{Name: "kinds", Outcome: datav1alpha1.CheckOK, Message: "the custom resources are installed"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Outcome: datav1alpha1.CheckWarning, Checks: []datav1alpha1.Check{
			{Name: "vacuum", Outcome: datav1alpha1.CheckWarning, Message: "a hostile\nname\x1b[2J", Next: "end the transaction"}}},
	}}
	for _, format := range formats {
		p := newPrinter("")
		*p.flags.OutputFormat = format
		var out strings.Builder
		if err := p.print(&out, list.DeepCopy(), doctorTable(list.Items)); err != nil {
			t.Fatal(err)
		}
		name := format
		if name == "" {
			name = "table"
		}
		golden(t, "doctor_"+name, out.String())
	}
}
