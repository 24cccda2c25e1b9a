package store

// What we add to a run's row is kept in its config, a jsonb object that OpenWorkflow
// writes as {} and never reads (R24). We add no columns: OpenWorkflow's processes prepare
// statements that return all columns, and a new one makes Postgres reject those plans.
// Their client then encodes what it sends next twice.
//
// Whoever may write rows may write anything there. So each value is read only when it has
// the right type, and within bounds: a bad one counts as absent and fails no statement.
const (
	// configSuspendedAt is since when the run is suspended, in seconds since 1970. A
	// suspended run that nobody executes has no available_at, which no claim of either
	// language takes (R43).
	configSuspendedAt = `'openworkflow.dev/suspendedAt'`
	// configResumeAt is when a suspended run would be due, in seconds since 1970.
	configResumeAt = `'openworkflow.dev/resumeAt'`
	// configFailures is how often the run's workflow itself has failed. OpenWorkflow has
	// only its attempts, which count sleeps and takeovers too (R97).
	configFailures = `'openworkflow.dev/failures'`
	// configDeaths is how many processes in a row have died while they executed the run, and
	// configDiedAt when the last of them did, in seconds since 1970. One without the other
	// counts as absent. Progress of the run since then outdates both.
	configDeaths = `'openworkflow.dev/deaths'`
	configDiedAt = `'openworkflow.dev/diedAt'`
	// configForkedFrom is the id of the run whose results a fork took over, and configForkStep
	// the durable name of the step at which it left that run's history.
	configForkedFrom = `'openworkflow.dev/forkedFrom'`
	configForkStep   = `'openworkflow.dev/forkStep'`
	// configSupersededBy is the id of the newest run that was forked from the run.
	configSupersededBy = `'openworkflow.dev/supersededBy'`
)

// configOf is the run's config, or an empty one when it is no object.
func configOf(run string) string {
	return `CASE WHEN jsonb_typeof(` + run + `.config) = 'object' THEN ` + run + `.config ELSE '{}' END`
}

// isSuspended says that the run is suspended.
func isSuspended(run string) string {
	return `coalesce(jsonb_typeof(` + run + `.config -> ` + configSuspendedAt + `) = 'number', false)`
}

// configTime is an instant in the run's config, NULL when there is none. The year 9999
// stands for all later ones.
func configTime(run, key string) string {
	value := run + `.config -> ` + key
	return `CASE WHEN jsonb_typeof(` + value + `) = 'number'
		THEN to_timestamp(least(greatest((` + value + `)::numeric, 0), 253402300799)::float8) END`
}

// configCount is a count in the run's config, 0 when there is none.
func configCount(run, key string) string {
	value := run + `.config -> ` + key
	return `CASE WHEN jsonb_typeof(` + value + `) = 'number'
		THEN least(greatest((` + value + `)::numeric, 0), 1000000000)::int ELSE 0 END`
}

// deathCount is how many processes in a row have died while they executed the run.
func deathCount(run string) string {
	return `CASE WHEN jsonb_typeof(` + run + `.config -> ` + configDiedAt + `) = 'number'
		THEN ` + configCount(run, configDeaths) + ` ELSE 0 END`
}

// madeProgress says that the run has made progress since its last death.
func madeProgress(run string) string { return progressSince(run, configTime(run, configDiedAt)) }

// progressSince says that the run has made progress since an instant: a step attempt has
// ended, or a wait has begun. It reads the run's step attempts by an index on the run.
func progressSince(run, at string) string {
	return `EXISTS (
		SELECT
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = ` + run + `.namespace_id AND a.workflow_run_id = ` + run + `.id
			AND CASE
				WHEN a.finished_at IS NOT NULL THEN a.finished_at
				WHEN a.kind IN ('sleep', 'workflow', 'signal-wait') THEN a.updated_at -- created_at has whole milliseconds
			END > ` + at + `
	)`
}

// configText is a text in the run's config, NULL when there is none.
func configText(run, key string) string {
	return `CASE WHEN jsonb_typeof(` + run + `.config -> ` + key + `) = 'string' THEN ` + run + `.config ->> ` + key + ` END`
}

// timeEntry is a config with one instant, an SQL expression that is not NULL.
func timeEntry(key, at string) string {
	return `jsonb_build_object(` + key + `, extract(epoch FROM least(` + at + `, '9999-12-31')))`
}
