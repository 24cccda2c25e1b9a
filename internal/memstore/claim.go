package memstore

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Claim leases due runs to worker ids of their own and returns them (R42, R43). Half of the
// slots are for new runs and half for runs due again. With GivenBack it leases runs that were
// given back instead (R62).
func (s *Store) Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error) {
	if request.Max <= 0 || len(request.Served) == 0 {
		return nil, nil
	}
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	runs := s.claim(request, now)
	if len(runs) > 0 {
		s.commit()
	} else {
		s.mu.Unlock()
	}
	return runs, nil
}

// claim is Claim with the mutex held.
func (s *Store) claim(request store.ClaimRequest, now time.Time) []openworkflow.Run {
	served := map[openworkflow.DefinitionKey]bool{}
	for _, d := range request.Served {
		served[d.Key()] = true
	}
	var pending, again []*run
	for _, r := range s.open {
		wanted := r.claimable(now, served)
		if request.GivenBack {
			wanted = r.runnable(now, served) && store.GivenBack(&r.Run)
		}
		switch {
		case !wanted:
		case r.Status == openworkflow.RunPending:
			pending = append(pending, r)
		default:
			again = append(again, r)
		}
	}
	slices.SortFunc(pending, compareDue)
	if request.GivenBack {
		slices.SortStableFunc(pending, func(a, b *run) int { return a.CreatedAt.Compare(b.CreatedAt) })
	}
	slices.SortFunc(again, compareDue)
	if !request.GivenBack {
		s.claimCount++
	}
	share := min(len(again), (request.Max+int(s.claimCount%2))/2)
	chosen := slices.Concat(again[:share], pending, again[share:])
	chosen = chosen[:min(len(chosen), request.Max)]

	runs := make([]openworkflow.Run, 0, len(chosen))
	for i, r := range chosen {
		r.Status = openworkflow.RunRunning
		r.Attempts++
		r.WorkerID = new(request.WorkerIDPrefix + strconv.FormatInt(request.First+int64(i), 10))
		r.AvailableAt = new(now.Add(request.Lease))
		if r.StartedAt == nil {
			r.StartedAt = &now
		}
		r.UpdatedAt = now
		runs = append(runs, r.copyOf())
	}
	return runs
}

func (r *run) runnable(now time.Time, served map[openworkflow.DefinitionKey]bool) bool {
	return store.HoldOf(&r.Run, now, served) == store.NotHeld
}

// claimable reports whether a claim takes the run that is not for those given back, which need
// not be due.
func (r *run) claimable(now time.Time, served map[openworkflow.DefinitionKey]bool) bool {
	return r.runnable(now, served) && !r.AvailableAt.After(now)
}

// compareDue orders runs as claims take them. Ids make the order deterministic.
func compareDue(a, b *run) int {
	if c := a.AvailableAt.Compare(*b.AvailableAt); c != 0 {
		return c
	}
	if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// Heartbeat extends the leases that are still held to d from now. It returns the state of each
// lease, in the same order.
func (s *Store) Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]store.LeaseState, error) {
	if len(leases) == 0 {
		return nil, nil
	}
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	states := make([]store.LeaseState, len(leases))
	for i, l := range leases {
		states[i].Lease = l
		r := s.runs[l.RunID]
		if r == nil {
			continue
		}
		if s.held(l) != nil {
			states[i].Held = true
			r.AvailableAt, r.UpdatedAt = new(now.Add(d)), now
		}
		states[i].Status, states[i].Suspended, states[i].DeadlineAt = r.Status, r.SuspendedAt != nil, r.DeadlineAt
	}
	return states, nil
}

// ReleaseLeases ends the leases of a pod's uid and returns the runs; see the method of package
// store.
func (s *Store) ReleaseLeases(ctx context.Context, request store.ReleaseRequest) ([]store.ReleasedRun, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	prefix := request.PodUID + "."
	var released []store.ReleasedRun
	for _, id := range sortedKeys(s.open) {
		r := s.open[id]
		switch {
		case r.Status != openworkflow.RunRunning || r.WorkerID == nil,
			!strings.HasPrefix(*r.WorkerID, prefix),
			request.ExceptProcess != "" && strings.HasPrefix(*r.WorkerID, prefix+request.ExceptProcess+"."):
			continue
		}
		freed, due := store.ReleasedRun{ID: id}, now
		if request.Died {
			freed.Deaths = s.countDeath(r, now)
			due = now.Add(openworkflow.DeathDelay(freed.Deaths, request.MaxDeaths))
		}
		r.WorkerID = nil
		r.setDue(due)
		r.UpdatedAt = now
		released = append(released, freed)
	}
	return released, nil
}

// countDeath counts a death of the run's worker, and returns how many there were in a row
// without progress.
func (s *Store) countDeath(r *run, now time.Time) int {
	for _, a := range s.steps[r.ID] {
		if r.DiedAt != nil && a.ProgressAt().After(*r.DiedAt) {
			r.Deaths = 0
		}
	}
	r.Deaths, r.DiedAt = r.Deaths+1, &now
	return r.Deaths
}

// SuspendRuns keeps open runs from being claimed until ResumeRuns. It returns how many it
// suspended.
func (s *Store) SuspendRuns(ctx context.Context, ids []string) (int, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer s.commit()
	n := 0
	for _, id := range ids {
		r := s.open[id]
		if r == nil || r.SuspendedAt != nil {
			continue
		}
		n++
		r.SuspendedAt, r.UpdatedAt = &now, now
		if r.WorkerID == nil {
			r.resumeAt, r.AvailableAt = r.AvailableAt, nil
		}
	}
	return n, nil
}

// ResumeRuns undoes SuspendRuns. It returns how many runs it resumed.
func (s *Store) ResumeRuns(ctx context.Context, ids []string) (int, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer s.commit()
	n := 0
	for _, id := range ids {
		r := s.open[id]
		if r == nil || r.SuspendedAt == nil {
			continue
		}
		n++
		if r.WorkerID == nil {
			r.AvailableAt = r.resumeAt
			if r.AvailableAt == nil {
				r.AvailableAt = &now
			}
		}
		r.SuspendedAt, r.resumeAt, r.UpdatedAt = nil, nil, now
	}
	return n, nil
}
