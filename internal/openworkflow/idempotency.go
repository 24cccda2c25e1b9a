package openworkflow

import "strings"

// The prefixes of the idempotency keys that OpenWorkflow itself makes.
const (
	ChildKeyPrefix  = "__workflow:"
	SignalKeyPrefix = "__signal:"
)

// ChildKey is the idempotency key of the child run that a step attempt starts (R98c).
func ChildKey(namespaceID, attemptID string) string {
	return ChildKeyPrefix + namespaceID + ":" + attemptID
}

// SignalKey is the idempotency key of the signal that a step sends (R99a).
func SignalKey(runID, stepName string) string {
	return SignalKeyPrefix + runID + ":" + stepName
}

// IdempotencyScope returns the text whose hash is the advisory lock that guards an idempotency
// key. Two implementations exclude each other only if the texts are equal byte for byte (R52).
func IdempotencyScope(namespaceID, workflowName, key string) string {
	var b strings.Builder
	b.WriteString(`{"namespaceId":`)
	appendJavaScriptString(&b, namespaceID)
	b.WriteString(`,"workflowName":`)
	appendJavaScriptString(&b, workflowName)
	b.WriteString(`,"idempotencyKey":`)
	appendJavaScriptString(&b, key)
	b.WriteByte('}')
	return b.String()
}
