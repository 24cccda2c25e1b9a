package openworkflow

import "strings"

// IdempotencyScope returns the text whose hash is the advisory lock that guards
// an idempotency key. Two implementations exclude each other only if it is equal
// byte for byte (R52).
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
