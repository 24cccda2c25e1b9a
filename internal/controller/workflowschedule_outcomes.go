package controller

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/schedule"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

const (
	// maxDeletedOutcomes is how many deleted schedules of a Backend are remembered until their last
	// outcomes are stored.
	maxDeletedOutcomes = 100
	// retryOutcomes is the time after which slots are decided again that wait for the storing of those
	// before them.
	retryOutcomes = 100 * time.Millisecond
)

// count counts the slots that were decided, once the status says so.
func (p *schedulePlan) count() {
	for _, planner := range []*schedule.Planner{p.planner, p.holder} {
		if planner == nil {
			continue
		}
		for reason, n := range planner.Decided {
			metrics.ScheduleSlots.WithLabelValues(string(reason)).Add(float64(n))
		}
	}
}

// outcomeLog knows which outcomes of slots are in statuses, and are to be stored in the databases of
// their Backends. It learns of them by the events of the cache, so it knows only statuses that the API
// server has accepted. A database that is away delays no slot: the status keeps what is not stored, up
// to schedule.MaxUnstored. It is in memory: a manager that starts sees each schedule once, and compares
// the outcomes in its status with the rows. Its methods may be called concurrently.
type outcomeLog struct {
	informers ctrlcache.Informers
	seed      maphash.Seed

	mu sync.Mutex
	// stored are hashes of the outcomes that each schedule had in its status when they were last stored.
	stored   map[types.UID]uint64
	backends map[types.NamespacedName]*backendOutcomes
	// in is where outcomes wait.
	in map[types.UID]*backendOutcomes
}

// backendOutcomes are the outcomes that are to be stored in one database. All fields but look are
// guarded by outcomeLog.mu.
type backendOutcomes struct {
	key     types.NamespacedName
	sweeps  int
	waiting map[types.UID]*waitingOutcomes
	// deleted counts those whose schedules are gone.
	deleted int
	// failing says that the last turn of the sweep has stored nothing.
	failing bool
	// look is set when a status holds more than it has to.
	look wake.Flag
}

// waitingOutcomes are those of one status. The slice is the cache's: nobody changes it.
type waitingOutcomes struct {
	schedule types.NamespacedName
	uid      types.UID
	hash     uint64
	outcomes []v1alpha1.SlotOutcome
	deleted  bool
}

func newOutcomeLog(informers ctrlcache.Informers) *outcomeLog {
	return &outcomeLog{
		informers: informers, seed: maphash.MakeSeed(), stored: map[types.UID]uint64{},
		backends: map[types.NamespacedName]*backendOutcomes{}, in: map[types.UID]*backendOutcomes{},
	}
}

// Start learns of the statuses of schedules from the cache, until ctx ends. It runs on the leader.
func (l *outcomeLog) Start(ctx context.Context) error {
	informer, err := l.informers.GetInformer(ctx, &v1alpha1.WorkflowSchedule{})
	if err != nil {
		return fmt.Errorf("follow the outcomes of WorkflowSchedules: %w", err)
	}
	handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { forSchedule(object, l.seen) },
		UpdateFunc: func(_, object any) { forSchedule(object, l.seen) },
		DeleteFunc: func(object any) { forSchedule(object, l.gone) },
	})
	if err != nil {
		return fmt.Errorf("follow the outcomes of WorkflowSchedules: %w", err)
	}
	<-ctx.Done()
	_ = informer.RemoveEventHandler(handle) // the cache may have ended before
	return nil
}

// forSchedule calls f with the schedule of an event of the cache.
func forSchedule(object any, f func(*v1alpha1.WorkflowSchedule)) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	if s, ok := object.(*v1alpha1.WorkflowSchedule); ok {
		f(s)
	}
}

// seen takes the outcomes in the status of a schedule, if they are not stored.
func (l *outcomeLog) seen(s *v1alpha1.WorkflowSchedule) {
	if len(s.Status.Outcomes) == 0 || s.Unreadable.StatusUnreadable() || s.Unreadable.SpecMessage() != "" {
		return
	}
	hash := l.hash(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(s.UID)
	if stored, ok := l.stored[s.UID]; ok && stored == hash {
		return
	}
	b := l.inLocked(backendOf(s))
	b.waiting[s.UID] = &waitingOutcomes{schedule: client.ObjectKeyFromObject(s), uid: s.UID, hash: hash, outcomes: s.Status.Outcomes}
	l.in[s.UID] = b
	if len(s.Status.Outcomes) > schedule.MaxOutcomes {
		b.look.Set()
	}
}

// gone keeps the last outcomes of a schedule that was deleted until they are stored, if that may be
// soon.
func (l *outcomeLog) gone(s *v1alpha1.WorkflowSchedule) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.stored, s.UID)
	b := l.in[s.UID]
	if b == nil || b.waiting[s.UID].deleted {
		return
	}
	b.waiting[s.UID].deleted = true
	b.deleted++
	if b.sweeps == 0 || b.deleted > maxDeletedOutcomes {
		l.dropLocked(s.UID)
	}
}

// dropLocked forgets outcomes that wait.
func (l *outcomeLog) dropLocked(uid types.UID) {
	b := l.in[uid]
	if b == nil {
		return
	}
	if b.waiting[uid].deleted {
		b.deleted--
	}
	delete(b.waiting, uid)
	delete(l.in, uid)
	l.dropUnusedLocked(b)
}

func (l *outcomeLog) inLocked(key types.NamespacedName) *backendOutcomes {
	b := l.backends[key]
	if b == nil {
		b = &backendOutcomes{key: key, waiting: map[types.UID]*waitingOutcomes{}, look: wake.New()}
		l.backends[key] = b
	}
	return b
}

func (l *outcomeLog) dropUnusedLocked(b *backendOutcomes) {
	if b.sweeps == 0 && len(b.waiting) == 0 {
		delete(l.backends, b.key)
	}
}

// use returns the outcomes for a database, for the sweep over it. Release ends that use.
func (l *outcomeLog) use(key types.NamespacedName) (b *backendOutcomes, release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = l.inLocked(key)
	b.sweeps++
	return b, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.sweeps--
		l.dropUnusedLocked(b)
	}
}

// next returns outcomes that wait, of up to limit schedules.
func (l *outcomeLog) next(b *backendOutcomes, limit int) []*waitingOutcomes {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*waitingOutcomes
	for w := range maps.Values(b.waiting) {
		if len(list) == limit {
			break
		}
		list = append(list, w)
	}
	return list
}

// settle says that outcomes were stored or, with an error, that they wait still.
func (l *outcomeLog) settle(b *backendOutcomes, list []*waitingOutcomes, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.failing = err != nil
	if err != nil {
		return
	}
	for _, w := range list {
		newest := b.waiting[w.uid]
		if newest != nil && !newest.deleted {
			l.stored[w.uid] = w.hash
		}
		if newest == w { // no later status has come
			l.dropLocked(w.uid)
		}
	}
}

// unstored returns how many outcomes in the status of a schedule may be stored nowhere else.
func (l *outcomeLog) unstored(s *v1alpha1.WorkflowSchedule) int {
	if len(s.Status.Outcomes) == 0 {
		return 0
	}
	hash := l.hash(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	if stored, ok := l.stored[s.UID]; ok && stored == hash {
		return 0
	}
	return len(s.Status.Outcomes)
}

// room returns how many slots of a schedule may be decided before others are stored: all, unless they
// are being stored, and the status holds many that are not.
func (l *outcomeLog) room(s *v1alpha1.WorkflowSchedule, unstored int, ready bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.backends[backendOf(s)]
	if !ready || b == nil || b.failing || b.sweeps == 0 {
		return maxScheduleWrites
	}
	return max(0, min(maxScheduleWrites, schedule.MaxUnstored-maxScheduleWrites-unstored))
}

// hash returns a hash of the outcomes in a status, and of the Backend in which they are stored.
func (l *outcomeLog) hash(s *v1alpha1.WorkflowSchedule) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	text := func(value string) {
		_, _ = h.WriteString(value)
		_ = h.WriteByte(0)
	}
	number := func(value int64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(value))
		_, _ = h.Write(b[:])
	}
	at := func(t *metav1.Time) { number(timeOf(t).Unix()) }
	text(backendOf(s).Name)
	for i := range s.Status.Outcomes {
		o := &s.Status.Outcomes[i]
		at(o.Time)
		at(o.Until)
		number(int64(o.Count))
		text(o.Reason)
		text(o.Run)
		text(o.Message)
	}
	return h.Sum64()
}

// rows returns the outcomes as the database holds them.
func (w *waitingOutcomes) rows(cluster string) (rows []store.SlotOutcome) {
	for i := range w.outcomes {
		o := &w.outcomes[i]
		if o.Time == nil {
			continue // somebody else has written the status
		}
		last := o.Time.Time
		if o.Until != nil {
			last = o.Until.Time
		}
		rows = append(rows, store.SlotOutcome{
			Schedule: store.ScheduleKey{Cluster: cluster, Namespace: w.schedule.Namespace, Name: w.schedule.Name, UID: string(w.uid)},
			Slot:     o.Time.Time, Last: last, Slots: max(int(o.Count), 1), Reason: o.Reason, Run: o.Run, Message: o.Message,
		})
	}
	return slices.Clip(rows)
}
