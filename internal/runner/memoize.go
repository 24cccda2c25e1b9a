//go:build !openworkflow_forget

package runner

// memoize is what this package is for. A test builds with the tag
// openworkflow_forget, which switches it off, to prove that the check for
// duplicate charges can fail.
const memoize = true
