package memstore

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// SaveWorker announces that the process is live and what it serves. Only the last process of a
// pod that announced itself is kept. Peers is the number of processes, this one included, that
// serve the same and announced themselves within the given time.
func (s *Store) SaveWorker(ctx context.Context, w store.Worker, within time.Duration) (peers int, err error) {
	now, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer s.commit()
	for key := range s.workers {
		if key.podUID == w.PodUID {
			delete(s.workers, key)
		}
	}
	w.SeenAt = now
	s.workers[workerKey{w.PodUID, w.Process}] = w
	for _, other := range s.workers {
		if !other.SeenAt.Before(now.Add(-within)) && reflect.DeepEqual(other.Workflows, w.Workflows) {
			peers++
		}
	}
	return peers, nil
}

// RemoveWorker deletes a process. An unknown one is no error.
func (s *Store) RemoveWorker(ctx context.Context, podUID, process string) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	defer s.commit()
	delete(s.workers, workerKey{podUID, process})
	return nil
}

// Workers returns the processes that announced themselves within the given time, ordered by
// pool and pod.
func (s *Store) Workers(ctx context.Context, within time.Duration) ([]store.Worker, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	var workers []store.Worker
	for _, w := range s.workers {
		if !w.SeenAt.Before(now.Add(-within)) {
			workers = append(workers, w)
		}
	}
	slices.SortFunc(workers, func(a, b store.Worker) int {
		return slices.Compare([]string{a.Pool, a.PodName, a.PodUID, a.Process}, []string{b.Pool, b.PodName, b.PodUID, b.Process})
	})
	return slices.Clip(workers), nil
}
