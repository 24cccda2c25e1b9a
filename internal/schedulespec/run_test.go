package schedulespec

import (
	"regexp"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestRunName_IsValidAndRead(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "nightly.report", strings.Repeat("a", 253), strings.Repeat("a", 220) + "." + strings.Repeat("b", 32)} {
		for _, suffix := range []string{"", Manual, BackfillSuffix("a"), BackfillSuffix("b")} {
			run := RunName(name, noon, suffix)
			if problems := validation.IsDNS1123Subdomain(run); len(problems) > 0 {
				t.Errorf("%s: %v", run, problems)
			}
			if slot, read, ok := ParseRunName(name, run); !ok || !slot.Equal(noon) || read != suffix {
				t.Errorf("%s is read as %s, %q, %t", run, slot, read, ok)
			}
			if later := RunName(name, noon.Add(time.Minute), ""); later <= run {
				t.Errorf("%s is not after %s", later, run)
			}
		}
	}
	for _, name := range []string{"hourly", "hourly-20261399-000000", "other-20270101-000000", "-20270101-000000", "hourly-x-20270101-000000", "hourly-20270101-000000-", "hourly-20270101-000000-x"} {
		if slot, _, ok := ParseRunName("hourly", name); ok {
			t.Errorf("%s is read as %s", name, slot)
		}
	}
}

func TestScheduledInput_HasTheTimeOfTheSlot(t *testing.T) {
	t.Parallel()
	for input, want := range map[string]string{
		"": `{"at":"2027-01-01T00:00:00Z"}`, "null": `{"at":"2027-01-01T00:00:00Z"}`, " {} ": `{"at":"2027-01-01T00:00:00Z"}`,
		`{"b":1e400,"at":[],"a":{"z":1,"y":2}}`: `{"a":{"z":1,"y":2},"at":"2027-01-01T00:00:00Z","b":1e400}`,
	} {
		template := &v1alpha1.RunTemplate{ScheduledTimeField: "at"}
		if input != "" {
			template.Input = &apiextensionsv1.JSON{Raw: []byte(input)}
		}
		got, err := scheduledInput(template, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
		if err != nil || string(got.Raw) != want {
			t.Errorf("%s: %s, %v", input, got.Raw, err)
		}
	}
	if got, err := scheduledInput(&v1alpha1.RunTemplate{Input: &apiextensionsv1.JSON{Raw: []byte(`[1]`)}}, noon); err != nil || string(got.Raw) != `[1]` {
		t.Errorf("an input without scheduledTimeField is %s, %v", got.Raw, err)
	}
}

func TestRunID_IsAUUIDAndRead(t *testing.T) {
	t.Parallel()
	s := &v1alpha1.WorkflowSchedule{ObjectMeta: metav1.ObjectMeta{Name: "hourly", UID: "uid"}}
	s.Spec.Runs, s.Spec.Backfills = InDatabase, []v1alpha1.Backfill{{Name: "december"}}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	ids := map[string]bool{}
	for _, slot := range []time.Time{noon, noon.Add(time.Second), time.Date(1931, 2, 3, 4, 5, 6, 0, time.UTC)} {
		for _, suffix := range []string{"", BackfillSuffix("december")} {
			id := NameOf(s, slot, suffix)
			if !uuid.MatchString(id) || ids[id] || id != NameOf(s, slot, suffix) {
				t.Errorf("the id of %s, %q is %s", slot, suffix, id)
			}
			ids[id] = true
			if at, read, ok := ParseName(s, id); !ok || !at.Equal(slot) || read != suffix {
				t.Errorf("%s is read as %s, %q, %t", id, at, read, ok)
			}
		}
	}
	if later := NameOf(s, noon.Add(time.Second), ""); later <= NameOf(s, noon, "") {
		t.Errorf("the id of a later slot is %s", later)
	}
	for _, id := range []string{"", "hourly", RunID("other", noon, ""), RunID("uid", noon, BackfillSuffix("november")), strings.Repeat("0", 32)} {
		if slot, _, ok := ParseName(s, id); ok {
			t.Errorf("%q is taken for the run of %s", id, slot)
		}
	}
}
