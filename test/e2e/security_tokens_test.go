//go:build e2e

package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// tokenAttacks use the token that is in a pool's pods, and the network that they are in.
var tokenAttacks = []attack{
	{"tokens/status-of-others", tryStatusOfOthers},
	{"tokens/forged-ends", tryForgedEnds},
	{"tokens/status-of-the-ended", tryStatusOfTheEnded},
	{"tokens/impossible-status", tryImpossibleStatus},
	{"tokens/status-storm", tryStatusStorm},
	{"tokens/other-writes", tryOtherWrites},
	{"tokens/ports", tryPorts},
}

// forgedEnd is a status that ends a run.
func forgedEnd() fields {
	now := time.Now().UTC().Format(time.RFC3339)
	return fields{"state": "Completed", "output": fields{"forged": true}, "finishedAt": now, "conditions": []fields{
		{"type": "Ready", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": now},
		{"type": "Complete", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": now},
	}}
}

// forge patches a status by the pool's token.
func (a *attacker) forge(o client.Object, members fields) error {
	return a.worker.Status().Patch(a.Context(), o.DeepCopyObject().(client.Object), statusPatch(members))
}

// A pool's token writes the status of its own Backend's runs only.
func tryStatusOfOthers(a *attacker) {
	kept := a.scene.honest.newRun("kept", fields{})
	a.refused("a status of another namespace", a.forge(kept, forgedEnd()), "forbidden")
	a.must(a.create(a.newBackend("reported", "no-such-secret", a.login)))
	other := a.newRun("reported-elsewhere", fields{"workflowName": "checkout", "backendRef": fields{"name": "reported"}})
	a.must(a.create(other))
	a.refused("a status of another Backend", a.forge(other, forgedEnd()), "may not report to Backend reported")
	a.refused("a status of a Backend", a.worker.Status().Patch(a.Context(), a.newBackend("default", "db", a.login), statusPatch(fields{"serverVersion": "x"})), "forbidden")
}

// An end that is forged before the run's real one is replaced, and the correction is counted. The
// event of it may be missing: the tenant's other cases use up the events of their namespace.
func tryForgedEnds(a *attacker) {
	runs := a.mirrored("forged", 3)
	for i, members := range []fields{forgedEnd(), {"state": "Failed", "error": fields{"message": "forged"}}, {"state": "Canceled", "revision": 2251799813685247}} {
		run := runs[i]
		a.must(a.forge(run, members))
		a.await(patience, "the forged status to be replaced", func() bool {
			return a.admin.Get(a.Context(), client.ObjectKeyFromObject(run), run) == nil && dig(run, "status", "corrections") != ""
		})
		if state, output := dig(run, "status", "state"), dig(run, "status", "output"); state != "Pending" || output != "" {
			a.Errorf("the corrected status is %s with output %s", state, output)
		}
	}
}

// An end that was real stays as it is.
func tryStatusOfTheEnded(a *attacker) {
	run := a.order("ended")
	a.must(a.create(run))
	a.awaitReason(time.Minute, run, v1alpha1.ReasonCompleted)
	a.refused("another end", a.forge(run, fields{"state": "Failed"}), "the run has ended: its state cannot change")
	a.refused("another output", a.forge(run, fields{"output": "forged"}), "the run has ended: its state cannot change")
	a.refused("a correction", a.forge(run, fields{"corrections": 1, "state": "Pending"}), "the run has ended: its state cannot change")
}

// A status that no object may have is refused, or only that object is unwell.
func tryImpossibleStatus(a *attacker) {
	run := a.mirrored("impossible", 1)[0]
	a.refused("the largest revision", a.forge(run, fields{"revision": int64(9223372036854775807)}), "2251799813685247")
	a.refused("a negative revision", a.forge(run, fields{"revision": -1}), "should be greater than or equal to 0")
	a.refused("a state of another kind", a.forge(run, fields{"state": "Exploded"}), "Unsupported value")
	a.refused("a long message", a.forge(run, fields{"message": strings.Repeat("x", 1025)}), "Too long")
	for _, date := range datesOfOtherDialects {
		for _, member := range []string{"startedAt", "finishedAt", "nextAt"} {
			if err := a.forge(run, fields{member: date}); err != nil && !apierrors.IsInvalid(err) {
				a.Errorf("%s %q: %v", member, date, err)
			}
		}
	}
	a.goodRun(patience)
}

// A pool that fights for a status with the manager, and fills it as far as it can, keeps neither
// the manager busy nor its memory.
func tryStatusStorm(a *attacker) {
	runs := a.mirrored("storm", 20)
	large := strings.Repeat("x", 500_000)
	a.repeat(500*time.Millisecond, func(i int) {
		members := forgedEnd()
		if i%2 == 0 {
			members = fields{"output": large, "revision": 2251799813685247, "state": "Running"}
		}
		_ = a.forge(runs[i%len(runs)], members) // refused while the forged end stands
	})
	a.await(time.Minute, "the last forged status to be replaced", func() bool {
		for _, run := range runs {
			if a.admin.Get(a.Context(), client.ObjectKeyFromObject(run), run) != nil || dig(run, "status", "state") != "Pending" {
				return false
			}
		}
		return true
	})
}

// A pool's token writes nothing but status.
func tryOtherWrites(a *attacker) {
	pod := a.object("Pod", "own", fields{"containers": []any{fields{"name": "x", "image": "localhost/checkout:dev"}}})
	pod.SetAPIVersion("v1")
	for what, o := range map[string]*unstructured.Unstructured{
		"a run": a.newRun("own", fields{"workflowName": "checkout"}), "a pool": a.newPool("own", nil, nil),
		"a Backend": a.newBackend("own", "db", a.login), "a pod": pod,
	} {
		a.refused("the creation of "+what+" by a pool's token", a.worker.Create(a.Context(), o), "forbidden")
		a.refused("the deletion of "+what+" by a pool's token", a.worker.Delete(a.Context(), o), "forbidden")
	}
	secret := &unstructured.Unstructured{}
	secret.SetGroupVersionKind(secretKind)
	a.refused("a read of a Secret by a pool's token",
		a.worker.Get(a.Context(), client.ObjectKey{Namespace: a.namespace, Name: "db"}, secret), "forbidden")
}

// The ports of others' pods answer whether they are well, and do nothing else.
func tryPorts(a *attacker) {
	honest := a.scene.honest.in(a.T)
	for _, pod := range honest.pods() {
		address := pod.Status.PodIP + ":8081"
		for path, want := range map[string]int{
			"/healthz": 200, "/readyz": 200, "/drain": 404, "/metrics": 404, "/debug/pprof/": 404, "/": 404, "/../../etc/passwd": 404,
		} {
			if got := a.ask(http.MethodGet, "http://"+address+path, ""); got != want {
				a.Errorf("%s of an honest pod answers %d, want %d", path, got, want)
			}
			if got := a.ask(http.MethodPost, "http://"+address+path, ""); got < 400 {
				a.Errorf("POST %s of an honest pod answers %d", path, got)
			}
		}
		a.slowRequests(address)
	}
	manager := a.scene.manager.runningPod().Status.PodIP
	for who, token := range map[string]string{"nobody": "", "a pool": a.workerToken, "a forged token": "forged"} {
		if got := a.ask(http.MethodGet, "https://"+manager+":8443/metrics", token); got < 400 {
			a.Errorf("the manager's metrics answer %d to %s", got, who)
		}
	}
	for path, want := range map[string]int{"/healthz": 200, "/debug/pprof/": 404, "/metrics": 404} {
		if got := a.ask(http.MethodGet, "http://"+manager+":8081"+path, ""); got != want {
			a.Errorf("%s of the manager answers %d, want %d", path, got, want)
		}
	}
	a.slowRequests(manager + ":8081")
	a.slowRequests(manager + ":8443")
	<-a.over.Done()
}

// ask returns the status of an answer to a request.
func (a *attacker) ask(method, url, token string) int {
	a.Helper()
	request, err := http.NewRequestWithContext(a.Context(), method, url, nil)
	a.must(err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	answer, err := c.Do(request)
	if err != nil {
		a.Errorf("%s %s: %v", method, url, err)
		return 0
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode
}

// slowRequests opens connections that begin a request and never end it. They stay open until the
// time for attacks is over.
func (a *attacker) slowRequests(address string) {
	a.Helper()
	for range 100 {
		conn, err := (&net.Dialer{}).DialContext(a.Context(), "tcp", address)
		a.must(err)
		a.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nX-Slow: ")
		a.must(err)
	}
}
