package store

import (
	"context"
	"errors"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

var errNotYet = errors.New("store: not written yet")

func channelName(schema, namespace string) string { return schema + namespace }

func (s *Store) Migrate(ctx context.Context) error     { return errNotYet }
func (s *Store) CheckSchema(ctx context.Context) error { return errNotYet }
func (s *Store) CreateRuns(ctx context.Context, runs []NewRun) ([]Created, error) {
	return nil, errNotYet
}
func (s *Store) GetRuns(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	return nil, errNotYet
}
func (s *Store) StepSummaries(ctx context.Context, runIDs []string, newest int) (map[string]openworkflow.StepSummary, error) {
	return nil, errNotYet
}
func (s *Store) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	return nil, errNotYet
}
func (s *Store) SuspendRuns(ctx context.Context, ids []string) (int, error)   { return 0, errNotYet }
func (s *Store) ResumeRuns(ctx context.Context, ids []string) (int, error)    { return 0, errNotYet }
func (s *Store) FailExpired(ctx context.Context, limit int) ([]string, error) { return nil, errNotYet }
func (s *Store) ReleaseLeases(ctx context.Context, podUID, exceptProcess string) ([]string, error) {
	return nil, errNotYet
}
func (s *Store) OpenObjectRuns(ctx context.Context, cluster, afterRunID string, limit int) ([]ObjectRun, error) {
	return nil, errNotYet
}
func (s *Store) Notify(ctx context.Context) error               { return errNotYet }
func (s *Store) Listen(ctx context.Context, wake func()) error  { return errNotYet }
func (s *Store) SaveWorker(ctx context.Context, w Worker) error { return errNotYet }
func (s *Store) RemoveWorker(ctx context.Context, podUID, process string) error {
	return errNotYet
}
func (s *Store) Workers(ctx context.Context, within time.Duration) ([]Worker, error) {
	return nil, errNotYet
}
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]openworkflow.Run, error) {
	return nil, errNotYet
}
func (s *Store) LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error) {
	return nil, errNotYet
}
func (s *Store) Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]LeaseState, error) {
	return nil, errNotYet
}
func (s *Store) Apply(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	return nil, nil, errNotYet
}
