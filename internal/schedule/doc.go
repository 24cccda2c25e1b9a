// Package schedule decides when the slots of a schedule are, and what happens to each. It is
// pure: it reads no clock and knows neither Kubernetes nor a database.
//
//	cron.go     what a cron expression says: parsing, and the next match of a wall clock
//	timing.go   slots: expressions in a time zone, with its gaps and folds, within bounds
//	plan.go     what happens to each slot that is due: start, buffer, skip, miss
//
// A slot is a time at which a run is to start. A gap is a time of day that a zone's clock skips, a
// fold one that it shows twice. Time of day is counted in wall seconds: the seconds since 1970 of a
// clock that shows UTC when the zone's clock shows the same.
//
// No expression, however rare its matches are, costs more than a walk over the months of nine
// years, and no question costs more the longer a schedule was not looked at.
package schedule
