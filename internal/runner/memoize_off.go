//go:build openworkflow_forget

package runner

const memoize = false
