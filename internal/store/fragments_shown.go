package store

import "strings"

// Whoever may write rows may write megabytes into each of their values, and the manager reads
// hundreds of rows at once. So it reads only as much of a value as a status can show. The
// beginning of a value and the fact that it is longer make the same status as the whole.

const (
	// maxShown is the longest JSON, in bytes, that is read whole.
	maxShown, longestShown = `4096`, 4096
	// maxShownText is how many characters are read of a text. A status shows at most 1,024 bytes.
	maxShownText, longestText = `1100`, 1100
	// maxObjectRef is the longest reference to an object that may be one of ours, in bytes.
	maxObjectRef = `4096`
)

// shownText is the beginning of a text.
func shownText(value string) string { return `left(` + value + `, ` + maxShownText + `)` }

// isLong says that a jsonb value is not read whole.
func isLong(value string) string { return `octet_length(` + value + `::text) > ` + maxShown }

// shownJSON is a jsonb value or, in place of a long one, a text that is as long.
func shownJSON(value string) string {
	return `CASE WHEN ` + isLong(value) + ` THEN to_jsonb(repeat('.', ` + maxShown + `)) ELSE ` + value + ` END`
}

// shownError is an error column or, in place of a long one, what openworkflow.DecodeError reads of
// it: name and message or, if it has neither, the beginning of the JSON itself.
func shownError(value string) string {
	part := func(key string) string { return shownText(value + ` ->> '` + key + `'`) }
	return `CASE
		WHEN (` + isLong(value) + `) IS NOT TRUE THEN ` + value + `
		WHEN 'string' IN (jsonb_typeof(` + value + ` -> 'name'), jsonb_typeof(` + value + ` -> 'message'))
			THEN jsonb_build_object('name', ` + part("name") + `, 'message', ` + part("message") + `)
		ELSE jsonb_build_object('message', ` + shownText(value+"::text") + `)
	END`
}

// shownWait is the context of an attempt or, in place of a long one, the signal that it waits for.
func shownWait(value string) string {
	return `CASE WHEN ` + isLong(value) + `
		THEN jsonb_build_object('signal', ` + shownText(value+" ->> 'signal'") + `)
		ELSE ` + value + ` END`
}

// shownObject is the context of a run without anything but the reference to its object.
func shownObject(value string) string { return shownReference(value, "kubernetes") }

// shownReference is the context of a run without anything but a reference, NULL if that is none of ours.
func shownReference(value, key string) string {
	reference := value + ` -> '` + key + `'`
	return `CASE WHEN octet_length((` + reference + `)::text) <= ` + maxObjectRef + ` THEN jsonb_build_object('` + key + `', ` + reference + `) END`
}

// shownReferences is the context of a run without anything but the references to its object and its
// schedule.
func shownReferences(value string) string {
	part := func(key string) string { return `coalesce(` + shownReference(value, key) + `, '{}')` }
	return `nullif(` + part("kubernetes") + ` || ` + part("schedule") + `, '{}')`
}

// shownRunColumns replaces the columns of a run by what is shown of them.
var shownRunColumns = func() *strings.Replacer {
	replaced := []string{
		"r.input", "NULL::jsonb", "r.context", shownObject("r.context"), "r.output", shownJSON("r.output"), "r.error", shownError("r.error"),
	}
	for _, text := range shownTexts {
		replaced = append(replaced, text, shownText(text))
	}
	return strings.NewReplacer(replaced...)
}()

// shownTexts are the texts of a run of which only the beginning is shown.
var shownTexts = []string{"r.workflow_name", "r.version", "r.status", "r.idempotency_key", "r.parent_step_attempt_id", "r.worker_id"}
