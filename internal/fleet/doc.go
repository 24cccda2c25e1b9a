// Package fleet knows the WorkerPools and live workers of a Backend: what they serve, and what to
// tell the user of a run that none of them serves. It is pure: pools, workers and rows in,
// sentences out. Which runs are runnable is defined in package store.
package fleet
