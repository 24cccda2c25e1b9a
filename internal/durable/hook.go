package durable

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// DefinitionOf returns the engine's view of a workflow.Definition. Package workflow sets it
// when it is initialized: a method would show the types of this package to authors.
var DefinitionOf func(workflow any) Definition

// MergeRetry returns the policy that an author has set, with base's values for members
// that are zero or negative. A negative MaximumAttempts means no limit.
func MergeRetry(set, base openworkflow.RetryPolicy) openworkflow.RetryPolicy {
	if set.InitialInterval > 0 {
		base.InitialInterval = set.InitialInterval
	}
	if set.BackoffCoefficient > 0 {
		base.BackoffCoefficient = set.BackoffCoefficient
	}
	if set.MaximumInterval > 0 {
		base.MaximumInterval = set.MaximumInterval
	}
	switch {
	case set.MaximumAttempts > 0:
		base.MaximumAttempts = set.MaximumAttempts
	case set.MaximumAttempts < 0:
		base.MaximumAttempts = 0
	}
	return base
}
