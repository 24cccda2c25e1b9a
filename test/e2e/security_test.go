//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	alone    = flag.Duration("alone", 75*time.Second, "how long the security test measures the honest tenant alone")
	attacked = flag.Duration("attacked", 4*time.Minute, "how long the security test attacks")
)

// memoryLimit is what the manager may have resident while it is attacked.
const memoryLimit = 256 << 20

// attack is something that a hostile tenant tries. Its function asserts what comes of it: it is
// refused, or the attacker alone suffers. That the honest tenant and the manager do not is
// asserted for all attacks together.
type attack struct {
	name string
	try  func(a *attacker)
}

// attacker is a hostile tenant while it tries one thing.
type attacker struct {
	*tenant
	scene *scene
	// over ends with the time for attacks.
	over context.Context
}

// P9: two tenants who do all that the administrator of a namespace and a login to the database
// may do neither stop, slow nor fill the manager for a third one, and reach nothing of it. Each
// subtest of "attack" is one thing that they try; all are tried at the same time.
func TestP9HostileTenantsHarmNobodyElse(t *testing.T) {
	baseline, length := *alone, *attacked
	if testing.Short() {
		baseline, length = min(baseline, 30*time.Second), min(length, time.Minute)
	}
	s := newScene(t)
	honest := s.newHonestLoad()
	before := honest.measure(baseline, nil)
	bareBefore := honest.takeBare()
	t.Logf("alone:    orders %v", before)
	t.Logf("          bare objects %v", bareBefore)
	t.Logf("          %s", honest.legs(time.Time{}))

	s.manager.reset()
	began := time.Now()
	during := honest.measure(length, func(over context.Context) {
		t.Run("attack", func(t *testing.T) {
			for i, attack := range attacks() {
				t.Run(attack.name, func(t *testing.T) {
					t.Parallel()
					a := &attacker{tenant: s.hostile[i%len(s.hostile)].in(t), scene: s, over: over}
					attack.try(a)
				})
			}
		})
	})
	bareDuring := honest.takeBare()
	t.Logf("attacked: orders %v", during)
	t.Logf("          bare objects %v", bareDuring)
	t.Logf("          %s", honest.legs(began))
	// What the API server does slower for a bare object is not the manager's doing.
	orders, bare := slower(before, during), max(slower(bareBefore, bareDuring), 1)
	t.Logf("p99 under attack, as a multiple of p99 alone: orders %.1f, bare objects %.1f", orders, bare)
	if orders > 2*bare {
		t.Errorf("the honest tenant's p99 is %.1f times that alone; the limit is 2 times the %.1f of bare objects", orders, bare)
	}
	honest.check()
	s.manager.check()
}

// slower returns how many times the p99 of some latencies is that of others.
func slower(before, during latencies) float64 {
	return float64(during.quantile(0.99)) / float64(before.quantile(0.99))
}

// attacks are all cases, by what they use. The tenants take turns.
func attacks() []attack {
	return slices.Concat(objectAttacks, urlAttacks, rowAttacks, tokenAttacks, serverAttacks)
}

// repeat calls f with 0, 1, 2 … at this interval until the time for attacks is over.
func (a *attacker) repeat(every time.Duration, f func(i int)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-a.over.Done():
			return
		case <-ticker.C:
			f(i)
		}
	}
}

// refused asserts that the API server has refused something, and how.
func (a *attacker) refused(what string, err error, want string) {
	a.Helper()
	if err == nil {
		a.Errorf("%s is not refused", what)
	} else if !strings.Contains(err.Error(), want) {
		a.Errorf("%s is refused with %q, want %q", what, err, want)
	}
}

// must fails the case when something that the attacker may do fails.
func (a *attacker) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// create creates an object as the administrator of the attacker's namespace.
func (a *attacker) create(o client.Object) error { return a.admin.Create(a.Context(), o) }

// reason waits until the manager has said something about an object, and returns reason and
// message of its condition Ready.
func (a *attacker) reason(o client.Object) (reason, message string) {
	a.Helper()
	what := fmt.Sprintf("%s %s to be observed", o.GetObjectKind().GroupVersionKind().Kind, o.GetName())
	a.await(time.Minute, what, func() bool {
		reason, message = a.ready(o)
		return reason != "" && reason != "NotObserved"
	})
	return reason, message
}

// awaitReason waits until an object has one of these reasons, and returns the message beside it.
func (a *attacker) awaitReason(within time.Duration, o client.Object, want ...string) (message string) {
	a.Helper()
	var reason string
	if !a.becomes(within, func() bool {
		reason, message = a.ready(o)
		return slices.Contains(want, reason)
	}) {
		a.Fatalf("%s %s says %s: %.500s; want %v", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), reason, message, want)
	}
	return message
}

// await fails the case if something does not become true in time.
func (a *attacker) await(within time.Duration, what string, ok func() bool) {
	a.Helper()
	if !a.becomes(within, ok) {
		a.Fatalf("gave up waiting for %s after %v", what, within)
	}
}

// becomes reports whether something becomes true in time. Tens of attackers wait at the same
// time, so each looks rarely.
func (a *attacker) becomes(within time.Duration, ok func() bool) bool {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(within); !ok(); <-ticker.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// goodRun asserts that the attacker's own runs still complete while it attacks its own Backend.
func (a *attacker) goodRun(within time.Duration) {
	a.Helper()
	good := a.order("good-" + suffix(a.T))
	a.must(a.create(good))
	a.awaitReason(within, good, "Completed")
}
