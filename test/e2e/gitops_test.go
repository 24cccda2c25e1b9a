//go:build e2e

package e2e

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

var life = flag.Duration("life", 0, "how long the objects of TestGitOps live while it watches who owns their fields")

// ourKinds are the kinds whose specs belong to users.
const ourKinds = "backends,workerpools,workflowruns,workflowschedules,workflowsignals"

// What docs/gitops.md says, with Flux's own controllers: see "make gitops". Each part begins with
// what the one before has left.
func TestGitOps(t *testing.T) {
	f := newFleet(t)
	for _, part := range []struct {
		name string
		run  func(*fleet)
		slow bool
	}{
		{name: "FromAnEmptyClusterToReady", run: (*fleet).becomesReady},
		{name: "AChangeIsRolledOut", run: (*fleet).changes},
		{name: "WhatIsRemovedIsPruned", run: (*fleet).prunes},
		{name: "ARollback_P1_ExecutesNothingAgain", run: (*fleet).rollsBack},
		{name: "ADeletedObject_P1_IsAppliedAgainAndNotExecuted", run: (*fleet).appliesAgain},
		{name: "AFailedRunIsMendedByARetry", run: (*fleet).mends},
		{name: "ASuspendedRunIsWaitedFor", run: (*fleet).waitsForSuspended, slow: true},
		{name: "ASignalIsAFile", run: (*fleet).signals},
		{name: "AnApprovalIsAFile", run: (*fleet).approves},
		{name: "TheSameCommitChangesNothing", run: (*fleet).changesNothing},
		{name: "NoManagerOfOursOwnsASpec", run: (*fleet).specsAreTheUsers},
	} {
		if part.slow && testing.Short() {
			continue
		}
		if !t.Run(part.name, func(t *testing.T) { part.run(f.in(t)) }) {
			f.explainFlux()
			return
		}
	}
}

// explainFlux logs what Flux says.
func (f *fleet) explainFlux() {
	f.Logf("%s", f.kubectl("-n", fluxNamespace, "get", "gitrepositories,kustomizations", "-o", "wide"))
	f.Logf("%s", f.kubectl("-n", fluxNamespace, "get", "events", "--sort-by=.lastTimestamp"))
}

// order returns the manifest of a run like that of order-1001.
func (f *fleet) order(name string) string {
	return strings.ReplaceAll(f.files["apps/orders/runs/order-1001.yaml"], "order-1001", name)
}

func (f *fleet) becomesReady() {
	if f.exists("gitrepository/fleet") {
		f.Fatal("an earlier test has left its repository")
	}
	f.write("infrastructure/openworkflow/install.yaml", f.kubectl("kustomize", filepath.Join(root, "dist/overlay")))
	f.add("clusters/production/fleet.yaml", "clusters/production/openworkflow.yaml", "clusters/production/orders.yaml",
		"apps/orders/platform/backend.yaml", "apps/orders/platform/workerpool.yaml", "apps/orders/platform/workflowschedule.yaml",
		"apps/orders/runs/order-1001.yaml")
	f.commit("Run the first order")
	revision := f.push()
	began := time.Now()
	f.kubectl("apply", "-f", filepath.Join(f.dir, "clusters/production/fleet.yaml"))
	f.awaitApplied(revision, "fleet", "openworkflow", "orders", "orders-runs")
	f.Logf("all are ready after %s", time.Since(began).Round(time.Second))
	f.kubectl("-n", f.namespace, "wait", "--for=condition=Ready", ourKinds, "--all", "--timeout=1s")
	f.checkLedger(1)
	run := f.runs()[0]
	if ready := f.kustomization("orders-runs"); run.Status.FinishedAt.After(ready.ready().LastTransitionTime.Time) {
		f.Errorf("orders-runs is ready since %s, and the run has ended at %s", ready.ready().LastTransitionTime, run.Status.FinishedAt)
	}
}

func (f *fleet) changes() {
	before := f.runs()[0]
	f.edit("apps/orders/platform/workerpool.yaml", "replicas: 1", "replicas: 2")
	f.edit("apps/orders/platform/workflowschedule.yaml", "30 2 * * *", "30 3 * * *")
	f.write("apps/orders/runs/order-1002.yaml", f.order("order-1002"))
	f.commit("Run another order, on two pods")
	f.awaitApplied(f.push(), "orders", "orders-runs")

	var pool v1alpha1.WorkerPool
	f.get(&pool, "workerpool", "checkout")
	if *pool.Status.ReadyReplicas != 2 || *pool.Status.UpdatedReplicas != 2 {
		f.Errorf("the pool is ready with %+v", pool.Status)
	}
	var schedule v1alpha1.WorkflowSchedule
	f.get(&schedule, "workflowschedule", "standing-order")
	if schedule.Spec.Schedules[0] != "30 3 * * *" || schedule.Status.ObservedGeneration != 2 {
		f.Errorf("the schedule is %+v", schedule)
	}
	f.checkLedger(2)
	for _, run := range f.runs() {
		if run.Name == before.Name && run.UID != before.UID {
			f.Errorf("%s was replaced", run.Name)
		}
	}
}

func (f *fleet) prunes() {
	f.git("rm", "-q", "apps/orders/runs/order-1002.yaml", "apps/orders/platform/workflowschedule.yaml")
	f.write("apps/orders/runs/order-2099.yaml", strings.Replace(f.order("order-2099"), "spec:", "spec:\n  availableAt: \"2099-01-01T00:00:00Z\"", 1))
	f.commit("Take an order off the books, and the standing order")
	f.push()
	f.kubectl("-n", f.namespace, "wait", "--for=delete", "workflowrun/order-1002", "workflowschedule/standing-order", "--timeout=60s")
	f.kubectl("-n", f.namespace, "wait", "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=Scheduled", "workflowrun/order-2099", "--timeout=60s")

	f.git("rm", "-q", "apps/orders/runs/order-2099.yaml")
	f.commit("Cancel an order that has not begun")
	f.awaitApplied(f.push(), "orders", "orders-runs")
	f.kubectl("-n", f.namespace, "wait", "--for=delete", "workflowrun/order-2099", "--timeout=60s")
	f.eventually(time.Minute, "the open run to be canceled", func() bool { return f.rowStatus("order-2099") == "canceled" })
	if status := f.rowStatus("order-1002"); status != "completed" {
		f.Errorf("the pruned run is %q in the database", status)
	}
	f.checkLedger(2)
}

// rowStatus returns the status of the row that holds a run with this key.
func (f *fleet) rowStatus(key string) string {
	f.Helper()
	var status string
	err := f.database.QueryRow(f.Context(), `SELECT status FROM openworkflow.workflow_runs WHERE idempotency_key = $1`, key).Scan(&status)
	if err != nil {
		f.Fatalf("read the run with the key %s: %v", key, err)
	}
	return status
}

func (f *fleet) rollsBack() {
	f.git("revert", "--no-edit", "HEAD~2..HEAD") // both commits of the pruning
	f.awaitApplied(f.push(), "orders", "orders-runs")
	f.kubectl("-n", f.namespace, "wait", "--for=condition=Ready", ourKinds, "--all", "--timeout=60s")
	status := f.statusOf("order-1002")
	var run v1alpha1.WorkflowRun
	f.get(&run, "workflowrun", "order-1002")
	if status.State != v1alpha1.RunCompleted || status.RunID == string(run.UID) || status.Output == nil {
		f.Errorf("order-1002 is back, with status %+v", status)
	}
	f.checkLedger(2)

	f.git("revert", "--no-edit", "HEAD~4") // the change to two pods
	f.awaitApplied(f.push(), "orders", "orders-runs")
	var pool v1alpha1.WorkerPool
	f.get(&pool, "workerpool", "checkout")
	if *pool.Spec.Replicas != 1 || *pool.Status.ReadyReplicas != 1 {
		f.Errorf("the pool is %+v", pool)
	}
	f.checkLedger(2)
}

func (f *fleet) appliesAgain() {
	before := f.statusOf("order-1001")
	f.kubectl("-n", f.namespace, "delete", "workflowrun", "order-1001")
	f.reconcile("kustomization/orders-runs")
	f.eventually(time.Minute, "Flux to apply order-1001 again", func() bool {
		return f.kubectl("-n", f.namespace, "get", "workflowrun", "order-1001", "--ignore-not-found", "-o", "name") != ""
	})
	f.kubectl("-n", f.namespace, "wait", "--for=condition=Complete", "workflowrun/order-1001", "--timeout=60s")
	if after := f.statusOf("order-1001"); after.RunID != before.RunID || after.Output == nil {
		f.Errorf("before the deletion the object showed %+v, now %+v", before, after)
	}
	events := f.kubectl("-n", f.namespace, "get", "events", "--field-selector=reason=Attached", "-o", "jsonpath={.items[*].involvedObject.name}")
	if !strings.Contains(events, "order-1001") {
		f.Errorf("the events Attached are about %q", events)
	}
	f.checkLedger(2)
}

func (f *fleet) mends() {
	f.add("apps/orders/runs/order-1003.yaml")
	f.commit("Run an order of nothing")
	message := f.awaitUnhealthy(f.push(), "orders-runs", "WorkflowRun/orders/order-1003")
	if !strings.Contains(message, "Failed") {
		f.Errorf("Flux says %q", message)
	}
	if message := f.statusOf("order-1003").Message; !strings.Contains(message, "amountCents must be above 0") {
		f.Errorf("the run says %q", message)
	}
	f.checkLedger(2)

	f.add("apps/orders/runs/order-1003-retry.yaml")
	f.commit("Correct the amount")
	f.awaitApplied(f.push(), "orders-runs")
	if reason := f.condition("workflowrun/order-1003", "reason"); reason != v1alpha1.ReasonSuperseded {
		f.Errorf("order-1003 is %s", reason)
	}
	f.checkLedger(3)
}

func (f *fleet) waitsForSuspended() {
	f.add("apps/orders/runs/order-1004.yaml")
	f.commit("Run an order later")
	message := f.awaitUnhealthy(f.push(), "orders-runs", "WorkflowRun/orders/order-1004")
	if !strings.Contains(message, "timeout") || !strings.Contains(message, "InProgress") {
		f.Errorf("Flux says %q", message)
	}
	f.edit("apps/orders/runs/order-1004.yaml", "suspend: true", "suspend: false")
	f.commit("Run it now")
	f.awaitApplied(f.push(), "orders-runs")
	f.checkLedger(4)
}

// signals adds a run, and the signal for which it waits, in one commit.
func (f *fleet) signals() {
	f.add("apps/orders/platform/desks.yaml", "apps/orders/runs/order-2001.yaml")
	f.commit("Run an order that needs an answer, and answer it")
	f.awaitApplied(f.push(), "orders", "orders-runs")
	if output := f.output("order-2001"); !strings.Contains(output, `"status":"shipped"`) || !strings.Contains(output, `"by":"ann"`) {
		f.Errorf("the output is %s", output)
	}
	f.appliesSignalAgain("order-2001-answer")
}

// approves lets a run ask, and adds the decision in the next commit.
func (f *fleet) approves() {
	f.add("apps/orders/runs/release-1.yaml")
	f.commit("Release 1.2.0")
	f.push()
	f.kubectl("-n", f.namespace, "wait", "--for=create", "workflowrun/release-1", "--timeout=60s")
	f.eventually(time.Minute, "the run to ask", func() bool {
		return strings.Contains(f.statusOf("release-1").Message, `waiting for the approval of step "release"`)
	})

	p := newPlugin(f.cluster)
	decision := f.run("", p.binary, "--kubeconfig", p.kubeconfig, "-n", f.namespace, "approve", "release-1", "--comment", "as agreed", "--dry-run", "-o", "yaml")
	f.write("apps/orders/runs/release-1-approve.yaml", decision)
	f.commit("Approve the release")
	f.awaitApplied(f.push(), "orders-runs")
	if output := f.output("release-1"); !strings.Contains(output, `"status":"released"`) || !strings.Contains(output, "as agreed") {
		f.Errorf("the output is %s", output)
	}
	f.appliesSignalAgain(f.kubectl("-n", f.namespace, "get", "workflowsignals", "-o", `jsonpath={.items[?(@.spec.approval.decision=="Approve")].metadata.name}`))
}

// appliesSignalAgain deletes a signal that was delivered. Flux applies it again, and it shows what it
// did before.
func (f *fleet) appliesSignalAgain(name string) {
	f.Helper()
	var before, after v1alpha1.WorkflowSignal
	f.get(&before, "workflowsignal", name)
	f.kubectl("-n", f.namespace, "delete", "workflowsignal", name)
	f.reconcile("kustomization/orders-runs")
	f.kubectl("-n", f.namespace, "wait", "--for=create", "workflowsignal/"+name, "--timeout=60s")
	f.kubectl("-n", f.namespace, "wait", "--for=condition=Delivered", "workflowsignal/"+name, "--timeout=60s")
	f.get(&after, "workflowsignal", name)
	if len(before.Status.Deliveries) != 1 || len(after.Status.Deliveries) != 1 || after.UID == before.UID ||
		after.Status.Deliveries[0].RunID != before.Status.Deliveries[0].RunID || !after.Status.Deliveries[0].Time.Equal(before.Status.Deliveries[0].Time) {
		f.Errorf("%s showed the deliveries %+v, and shows %+v", name, before.Status.Deliveries, after.Status.Deliveries)
	}
}

// changesNothing has Flux apply the same commit again.
func (f *fleet) changesNothing() {
	before := f.generations()
	for _, name := range []string{"orders", "orders-runs"} {
		f.reconcile("kustomization/" + name)
		asked := f.kubectl("-n", fluxNamespace, "get", "kustomization", name, "-o", `jsonpath={.metadata.annotations.reconcile\.fluxcd\.io/requestedAt}`)
		f.eventually(time.Minute, name+" to be reconciled", func() bool {
			return f.kustomization(name).Status.LastHandledReconcileAt == asked
		})
		f.awaitApplied("main@sha1:"+f.git("rev-parse", "HEAD"), name)
	}
	if after := f.generations(); after != before {
		f.Errorf("the generations were\n%s\nand are\n%s", before, after)
	}
	f.kubectl("-n", f.namespace, "diff", "-R", "-f", filepath.Join(f.dir, "apps"))
}

// generations returns the generation of each object of ours.
func (f *fleet) generations() string {
	f.Helper()
	return f.kubectl("-n", f.namespace, "get", ourKinds, "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)
}

// specsAreTheUsers checks who owns which field of each object that Flux has applied, for as long as
// -life says.
func (f *fleet) specsAreTheUsers() {
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for end := time.Now().Add(*life); ; <-ticker.C {
		if objects := f.checkSpecOwners("kustomize-controller"); objects < 4 {
			f.Errorf("only %d objects were checked", objects)
		}
		if f.Failed() || time.Now().After(end) {
			return
		}
	}
}

// checkSpecOwners checks that these are the only field managers that own a field of a spec, and returns
// how many objects it has seen. Runs that a schedule has started have no other author than it.
func (c *cluster) checkSpecOwners(users ...string) int {
	c.Helper()
	var list struct {
		Items []metav1.PartialObjectMetadata
	}
	c.get(&list, ourKinds, "--show-managed-fields")
	for _, o := range list.Items {
		if metav1.GetControllerOf(&o) != nil {
			continue
		}
		owners := map[string]bool{}
		for _, entry := range o.ManagedFields {
			if strings.Contains(entry.FieldsV1.GetRawString(), `"f:spec"`) {
				owners[entry.Manager] = true
			}
		}
		for _, user := range users {
			delete(owners, user)
		}
		if len(o.ManagedFields) < 2 || len(owners) > 0 {
			c.Errorf("%s %s: %v own fields of its spec; its managers are %v", o.Kind, o.Name, owners, o.ManagedFields)
		}
	}
	return len(list.Items)
}

// After the API server has set the defaults, each sample is as its file says, however it was applied.
func TestGitOps_ADiffOfEachSampleShowsNothing(t *testing.T) {
	for _, how := range []struct {
		name string
		args []string
	}{
		{name: "ClientSide"},
		{name: "ServerSide", args: []string{"--server-side", "--field-manager=kubectl"}},
	} {
		t.Run(how.name, func(t *testing.T) {
			c := newCluster(t)
			samples := []string{"-k", filepath.Join(root, "config/samples")}
			for _, moment := range []string{"when it is applied", "once the manager has seen it"} {
				c.kubectl(append(append([]string{"-n", c.namespace, "apply"}, how.args...), samples...)...)
				c.kubectl(append(append([]string{"-n", c.namespace, "diff"}, how.args...), samples...)...) // exit code 0
				t.Logf("no difference %s", moment)
				c.kubectl("-n", c.namespace, "wait", "--for=jsonpath={.status.observedGeneration}=1", ourKinds, "--all", "--timeout=60s")
			}
			if n := c.checkSpecOwners("kubectl", "kubectl-client-side-apply"); n < 20 {
				t.Errorf("only %d objects were checked", n)
			}
		})
	}
}
