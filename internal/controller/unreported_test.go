package controller

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

func TestAddLowPriority_ComesAfterWhatIsNew(t *testing.T) {
	t.Parallel()
	queue := priorityqueue.New[runRequest]("test-" + t.Name())
	defer queue.ShutDown()
	addLowPriority(queue, runRequest{NamespacedName: types.NamespacedName{Name: "late"}})
	queue.Add(runRequest{NamespacedName: types.NamespacedName{Name: "new"}})
	for _, want := range []string{"new", "late"} {
		if got, _ := queue.Get(); got.Name != want {
			t.Errorf("got %q, want %q", got.Name, want)
		}
	}
}

func TestUnreportedRuns_TimeOutOnlyWithoutAReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		type look struct {
			name  string
			after time.Duration
		}
		looks := make(chan look, 5)
		unreported := unreportedRuns{onTimeout: func(key types.NamespacedName) { looks <- look{key.Name, time.Since(began)} }}
		named := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: name} }
		for _, name := range []string{"reported", "created anew", "taken", "silent", "later", "reported at once"} {
			unreported.track(named(name), "uid", "default")
		}
		unreported.confirm(named("reported at once"), "uid")
		for _, name := range []string{"reported", "created anew", "taken", "silent", "reported at once"} {
			unreported.expectWithin(named(name), 2*time.Second)
		}
		unreported.expectWithin(named("later"), 3*time.Second)
		unreported.confirm(named("reported"), "uid")
		unreported.confirm(named("created anew"), "another")
		unreported.confirm(named("unknown"), "uid")
		if got := unreported.remove(named("taken")); got.uid != "uid" || got.backend != "default" {
			t.Errorf("took %+v", got)
		}
		if got := unreported.remove(named("taken")); got.uid != "" {
			t.Errorf("took %+v a second time", got)
		}
		got := []look{<-looks, <-looks, <-looks}
		slices.SortFunc(got[:2], func(a, b look) int { return len(b.name) - len(a.name) })
		want := []look{{"created anew", 2 * time.Second}, {"silent", 2 * time.Second}, {"later", 3 * time.Second}}
		if !slices.Equal(got, want) {
			t.Errorf("looked at %v, want %v", got, want)
		}
		synctest.Wait()
		if len(looks) > 0 {
			t.Errorf("looked at %v, too", <-looks)
		}
		if got := unreported.remove(named("silent")); got.uid != "uid" {
			t.Errorf("a look forgets: %+v", got)
		}
	})
}
