package main

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestWhy_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("why", "why", runSeq(3))
}

func TestWhy_TellsOfWorkersErrorsAndObjects(t *testing.T) {
	w := setup(t)
	w.history()
	w.golden("why_noworker", w.run("why", runSeq(5), "-o", "wide").out)
	w.golden("why_failed", w.run("why", runSeq(1)).out)
	viewer := w.user("viewer", rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"runs", "runs/why"}, Verbs: []string{"get"}})
	if got := w.runAs(viewer, "", "why", runSeq(1)); strings.Contains(got.out, "declined") || !strings.Contains(got.out, "with CardError") {
		t.Errorf("a viewer reads %s%s", got.out, got.errOut)
	}
	w.superseded(1)
	if got := w.run("why", "superseded-0001"); !strings.Contains(got.out, "Next:       nothing here; see the run that was forked from it: kubectl workflow why run/"+runSeq(2)) {
		t.Errorf("a superseded run: %s%s", got.out, got.errOut)
	}
	w.Create(&v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "new"}, Spec: v1alpha1.WorkflowRunSpec{WorkflowName: "checkout"}})
	if got := w.run("why", "new"); !strings.Contains(got.out, "the manager has not seen the WorkflowRun yet") {
		t.Errorf("a WorkflowRun without a run: %s%s", got.out, got.errOut)
	}
}

func TestWhy_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, "accepts 1 arg(s), received 0", "why")
	w.fails(codeNotFound, `there is no WorkflowRun and no run "order-1" in this namespace: see kubectl workflow list`, "why", "order-1")
	w.fails(codeError, `unknown output format "xml"`, "why", "order-1", "-o", "xml")
}
