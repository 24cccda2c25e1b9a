package v1alpha1_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestCreator_IsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []v1alpha1.Creator{
		{Username: "ann"},
		{Username: "system:serviceaccount:shop:default", Groups: []string{"system:serviceaccounts", "system:authenticated"}},
		{Username: `a"b\c<d>&é` + "\u2028\n\t", Groups: []string{"", `"`}},
	} {
		got, err := v1alpha1.ParseCreator(map[string]string{v1alpha1.AnnotationCreatedBy: c.String()})
		if diff := cmp.Diff(c, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c, err, diff)
		}
	}
	many := v1alpha1.Creator{Username: "ann", Groups: make([]string, v1alpha1.MaxCreatorGroups+1)}
	if want := `{"username":"ann","groups":[]}`; many.String() != want {
		t.Errorf("a user of many groups is %s, want %s", many, want)
	}
}

func TestCreator_SaysWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	if _, err := v1alpha1.ParseCreator(nil); !errors.Is(err, v1alpha1.ErrNoCreator) {
		t.Errorf("without an annotation: %v", err)
	}
	for text, want := range map[string]string{
		"":               "is no JSON of a username and groups",
		`{"username":7}`: "is no JSON of a username and groups",
		v1alpha1.Creator{Username: "\a"}.String(): "is no JSON of a username and groups",
		`{}`:                               "has no username",
		`"` + strings.Repeat("x", 256<<10): fmt.Sprintf("has %d bytes, the limit is %d", 1+(256<<10), 256<<10),
	} {
		_, err := v1alpha1.ParseCreator(map[string]string{v1alpha1.AnnotationCreatedBy: text})
		if err == nil || !strings.Contains(err.Error(), want) || len(text) > 2 && strings.Contains(err.Error(), text) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}
