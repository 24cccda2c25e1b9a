package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubejson "sigs.k8s.io/json"
)

// The API server may hold objects that these types cannot hold: it stored them under another
// CustomResourceDefinition, or its idea of a time is wider than Go's. Decoding a list fails as a
// whole, and with it the cache of every tenant, if it fails for one object. So an object of ours
// decodes always. What cannot be read of it is left out, and named in its Unreadable.

// maxDepth is the deepest nesting of an object that is read. JSON decoders fail beyond 10,000
// levels, and Postgres beyond a few thousand.
const maxDepth = 1000

// maxUnreadable is how many members Unreadable names at most.
const maxUnreadable = 8

// Unreadable names the members of an object that could not be read.
type Unreadable struct {
	// Spec and Status have the paths of members, each with what is wrong there. They hold no value.
	Spec, Status []string
}

// SpecMessage says what of the spec could not be read. It is empty if all was read.
func (u *Unreadable) SpecMessage() string {
	if u == nil || len(u.Spec) == 0 {
		return ""
	}
	return "this object cannot be read: " + strings.Join(u.Spec, "; ") + ": correct it, or delete it and create it anew"
}

// StatusUnreadable reports whether a part of the status could not be read.
func (u *Unreadable) StatusUnreadable() bool { return u != nil && len(u.Status) > 0 }

// UnmarshalJSON implements json.Unmarshaler. It fails only for what is no object.
func (r *WorkflowRun) UnmarshalJSON(raw []byte) error {
	type plain WorkflowRun
	r.Unreadable = nil
	if err := unmarshal(raw, (*plain)(r)); err == nil {
		return nil
	}
	return readMembers(raw, &r.TypeMeta, &r.ObjectMeta, &r.Spec, &r.Status, &r.Unreadable)
}

// UnmarshalJSON implements json.Unmarshaler. It fails only for what is no object.
func (p *WorkerPool) UnmarshalJSON(raw []byte) error {
	type plain WorkerPool
	p.Unreadable = nil
	if err := unmarshal(raw, (*plain)(p)); err == nil {
		return nil
	}
	return readMembers(raw, &p.TypeMeta, &p.ObjectMeta, &p.Spec, &p.Status, &p.Unreadable)
}

// UnmarshalJSON implements json.Unmarshaler. It fails only for what is no object.
func (s *WorkflowSchedule) UnmarshalJSON(raw []byte) error {
	type plain WorkflowSchedule
	s.Unreadable = nil
	if err := unmarshal(raw, (*plain)(s)); err == nil {
		return nil
	}
	return readMembers(raw, &s.TypeMeta, &s.ObjectMeta, &s.Spec, &s.Status, &s.Unreadable)
}

// UnmarshalJSON implements json.Unmarshaler. It fails only for what is no object.
func (s *WorkflowSignal) UnmarshalJSON(raw []byte) error {
	type plain WorkflowSignal
	s.Unreadable = nil
	if err := unmarshal(raw, (*plain)(s)); err == nil {
		return nil
	}
	return readMembers(raw, &s.TypeMeta, &s.ObjectMeta, &s.Spec, &s.Status, &s.Unreadable)
}

// UnmarshalJSON implements json.Unmarshaler. It fails only for what is no object.
func (b *Backend) UnmarshalJSON(raw []byte) error {
	type plain Backend
	b.Unreadable = nil
	if err := unmarshal(raw, (*plain)(b)); err == nil {
		return nil
	}
	return readMembers(raw, &b.TypeMeta, &b.ObjectMeta, &b.Spec, &b.Status, &b.Unreadable)
}

// errTooDeep is the error of an object that is nested deeper than maxDepth.
var errTooDeep = fmt.Errorf("nested deeper than %d levels", maxDepth)

// unmarshal decodes as the clients of Kubernetes do, names in their exact case.
func unmarshal(raw []byte, into any) error {
	if deeperThan(raw, maxDepth) {
		return errTooDeep
	}
	return kubejson.UnmarshalCaseSensitivePreserveInts(raw, into)
}

// readMembers decodes an object of ours member by member, and leaves out what cannot be decoded.
func readMembers[Spec, Status any](raw []byte, kind *metav1.TypeMeta, metadata *metav1.ObjectMeta, spec *Spec, status *Status, unreadable **Unreadable) error {
	var members struct {
		Metadata json.RawMessage `json:"metadata"`
		Spec     json.RawMessage `json:"spec"`
		Status   json.RawMessage `json:"status"`
	}
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(raw, &members); err != nil {
		return err
	}
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(raw, kind); err != nil {
		return err
	}
	// The API server itself reads the metadata, so these are as they should be.
	if len(members.Metadata) > 0 {
		if err := kubejson.UnmarshalCaseSensitivePreserveInts(members.Metadata, metadata); err != nil {
			return err
		}
	}
	found := &Unreadable{}
	*spec, *status = *new(Spec), *new(Status)
	readLenient(members.Spec, reflect.ValueOf(spec).Elem(), "spec", &found.Spec)
	readLenient(members.Status, reflect.ValueOf(status).Elem(), "status", &found.Status)
	found.Spec, found.Status = found.Spec[:min(len(found.Spec), maxUnreadable)], found.Status[:min(len(found.Status), maxUnreadable)]
	*unreadable = found
	return nil
}

// readLenient decodes what can be decoded into a value, and names the rest.
func readLenient(raw json.RawMessage, into reflect.Value, path string, unreadable *[]string) {
	if len(raw) == 0 {
		return
	}
	err := unmarshal(raw, into.Addr().Interface())
	if err == nil {
		return
	}
	into.SetZero()
	if !readParts(raw, into, path, unreadable) {
		*unreadable = append(*unreadable, path+" "+complaint(into.Type(), err))
	}
}

// readParts decodes the members or elements of a value one by one. Of a list it keeps the elements
// that can be read whole. It returns false for a value that has no parts.
func readParts(raw json.RawMessage, into reflect.Value, path string, unreadable *[]string) bool {
	if _, leaf := reflect.TypeAssert[json.Unmarshaler](into.Addr()); leaf && into.Kind() != reflect.Pointer {
		return false
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		before := len(*unreadable)
		readLenient(raw, into.Elem(), path, unreadable)
		if len(*unreadable) > before && into.Elem().IsZero() {
			into.SetZero()
		}
		return true
	case reflect.Struct:
		var members map[string]json.RawMessage
		if kubejson.UnmarshalCaseSensitivePreserveInts(raw, &members) != nil {
			return false
		}
		for i := range into.NumField() {
			name, _, _ := strings.Cut(into.Type().Field(i).Tag.Get("json"), ",")
			readLenient(members[name], into.Field(i), path+"."+name, unreadable)
		}
		return true
	case reflect.Slice:
		var elements []json.RawMessage
		if kubejson.UnmarshalCaseSensitivePreserveInts(raw, &elements) != nil {
			return false
		}
		for i, raw := range elements {
			element, before := reflect.New(into.Type().Elem()).Elem(), len(*unreadable)
			readLenient(raw, element, fmt.Sprintf("%s[%d]", path, i), unreadable)
			if len(*unreadable) == before {
				into.Set(reflect.Append(into, element))
			}
		}
		return true
	default:
		return false
	}
}

// complaint says what is wrong with a value, without the value.
func complaint(of reflect.Type, err error) string {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case errors.Is(err, errTooDeep):
		return "is " + errTooDeep.Error()
	case of == reflect.TypeFor[metav1.Time]():
		return "is no time such as 2027-01-01T00:00:00Z"
	case slices.Contains([]reflect.Kind{reflect.Int32, reflect.Int64}, of.Kind()):
		return fmt.Sprintf("is no whole number of %d bits", of.Bits())
	case of.Kind() == reflect.Bool:
		return "is neither true nor false"
	case of.Kind() == reflect.String:
		return "is no text"
	default:
		return "has the wrong type"
	}
}

// deeperThan reports whether a JSON value is nested deeper than a limit.
func deeperThan(raw []byte, limit int) bool {
	if len(raw) <= 2*limit {
		return false
	}
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '{', '[':
			if depth++; depth > limit {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			i = textEnd(raw, i)
		}
	}
	return false
}

// textEnd returns the index of the quote that ends the JSON string which begins at an index.
func textEnd(raw []byte, begin int) int {
	for i := begin + 1; i < len(raw); {
		quote := bytes.IndexByte(raw[i:], '"')
		if quote < 0 {
			return len(raw)
		}
		i += quote
		escapes := 0
		for raw[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
		i++
	}
	return len(raw)
}
