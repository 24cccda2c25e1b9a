//go:build !openworkflow_forget

package runner

// memoize makes a replay return stored results. A test builds with the tag
// openworkflow_forget, which disables it, to prove that the check for duplicate charges can
// fail.
const memoize = true
