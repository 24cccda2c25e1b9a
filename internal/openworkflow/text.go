package openworkflow

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Truncate cuts text to at most limit bytes, between two characters. It marks each byte that is
// not UTF-8.
func Truncate(text string, limit int) string {
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}

// FirstOf returns the first n texts and a count of the rest.
func FirstOf(texts []string, n int) []string {
	if len(texts) <= n {
		return texts
	}
	return append(texts[:n:n], fmt.Sprintf("and %d more", len(texts)-n))
}
