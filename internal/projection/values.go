package projection

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubejson "sigs.k8s.io/json"
)

// Rows hold more than a status does. The API server reads a number as an int64 or a float64 and
// refuses one that is neither, it refuses instants without a year of four digits, and it replaces
// what is not UTF-8. A status that it would refuse or change is never sent: such a value is left
// out, and marked where the object has a mark.

// The first and the last instant that a status can show. The zero time would be shown as null.
var (
	firstInstant = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
	lastInstant  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// timeOf returns an instant as a status shows it, nil for one that it cannot show.
func timeOf(t *time.Time) *metav1.Time {
	if t == nil || t.Before(firstInstant) || t.After(lastInstant.Add(time.Second-1)) {
		return nil
	}
	return new(instantOf(*t))
}

// instantOf returns the instant nearest to this one that a status can show.
func instantOf(t time.Time) metav1.Time {
	switch {
	case t.Before(firstInstant):
		t = firstInstant
	case t.After(lastInstant):
		t = lastInstant
	}
	return metav1.Time{Time: t.UTC().Truncate(time.Second)}
}

// countOf leaves out a count of zero, as a Job's status does: each member costs the API server
// time.
func countOf(n int) *int32 {
	if n <= 0 {
		return nil
	}
	return new(int32Of(n))
}

// int32Of returns the nearest number that a counter can show.
func int32Of(n int) int32 { return int32(min(max(n, 0), math.MaxInt32)) }

// outputOf returns an output, or marks that a status cannot hold it. A null is shown as none.
func outputOf(raw json.RawMessage) (output *apiextensionsv1.JSON, truncated *bool) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil, nil
	case !fits(raw) || !survives(raw):
		return nil, new(true)
	default:
		return &apiextensionsv1.JSON{Raw: raw}, nil
	}
}

// fits reports whether an output takes at most maxOutput bytes. The text as the API server writes
// it is measured: Postgres and a worker write the same value with other spaces and numbers.
func fits(raw json.RawMessage) bool {
	const (
		longest  = 6             // "<" is written as \u003c, and nothing grows more
		shortest = maxOutput * 8 // what is longer is not read at all
	)
	if len(raw) > shortest || !json.Valid(raw) {
		return false
	}
	if len(raw)*longest <= maxOutput {
		return true
	}
	var value any
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(raw, &value); err != nil {
		return false
	}
	written, err := json.Marshal(value)
	return err == nil && len(written) <= maxOutput
}

// survives reports whether the API server keeps all texts and numbers of a valid JSON value.
func survives(raw json.RawMessage) bool {
	if !utf8.Valid(raw) {
		return false
	}
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			end := stringEnd(raw, i)
			if !keepsText(raw[i:end]) {
				return false
			}
			i = end
		case c == '-' || '0' <= c && c <= '9':
			end := i + 1
			for end < len(raw) && strings.IndexByte("+-.0123456789Ee", raw[end]) >= 0 {
				end++
			}
			if !exact(string(raw[i:end])) {
				return false
			}
			i = end
		default:
			i++
		}
	}
	return true
}

// stringEnd returns the index after the JSON string that begins at an index.
func stringEnd(raw []byte, begin int) int {
	for i := begin + 1; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

// keepsText reports whether a JSON string has no half of a surrogate pair, which is no character.
func keepsText(quoted []byte) bool {
	if !bytes.Contains(quoted, []byte(`\ud`)) && !bytes.Contains(quoted, []byte(`\uD`)) {
		return true
	}
	var text string
	return json.Unmarshal(quoted, &text) == nil && !strings.ContainsRune(text, utf8.RuneError)
}

// exact reports whether a JSON number is an int64, or the shortest text of the float64 that is
// nearest to it has the same value.
func exact(number string) bool {
	if !strings.ContainsAny(number, ".eE") {
		if _, err := strconv.ParseInt(number, 10, 64); err == nil {
			return true
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	digits, exponent, ok := decimal(number)
	nearest, itsExponent, _ := decimal(strconv.FormatFloat(f, 'e', -1, 64))
	return ok && digits == nearest && exponent == itsExponent
}

// decimal returns the digits of a number without zeros at either end, and the exponent e with
// which the number is 0.digits × 10^e.
func decimal(number string) (digits string, exponent int, ok bool) {
	number = strings.TrimPrefix(number, "-")
	mantissa := number
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		mantissa = number[:i]
		var err error
		if exponent, err = strconv.Atoi(number[i+1:]); err != nil {
			return "", 0, false
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	all := whole + fraction
	digits = strings.TrimLeft(all, "0")
	if digits == "" {
		return "", 0, true
	}
	exponent += len(whole) - (len(all) - len(digits))
	return strings.TrimRight(digits, "0"), exponent, true
}
