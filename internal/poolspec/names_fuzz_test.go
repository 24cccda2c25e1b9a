package poolspec

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// FuzzNames looks for a name of a pool or a Backend, as the API server accepts it, whose objects
// or labels the API server would refuse, or that another name has as well.
func FuzzNames(f *testing.F) {
	for _, names := range [][2]string{
		{"checkout", "checkout.2"},
		{"a.b", "a-b"},
		{"0", "1.0.0"},
		{"a-------------------------------------------------------------b", "a-------------------------------------------------------------c"},
		{"prod.payments.team-a.eu-central-1.example.com.prod.payments.team-a.eu-central-1", "prod.payments.team-a.eu-central-1.example.com.prod.payments.team-a.eu-central-2"},
		{"abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-abcdefghi", "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-abcdefghij"},
	} {
		f.Add(names[0], names[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(validation.IsDNS1123Subdomain(a)) > 0 || len(validation.IsDNS1123Subdomain(b)) > 0 {
			return // no object has this name
		}
		for _, name := range []string{a, b} {
			// Deployments append up to 16 characters to a name, which then is a pod's host name.
			if object := ObjectName(name); len(object) > maxObjectName || len(validation.IsDNS1123Label(object)) > 0 {
				t.Errorf("the objects of %q are named %q", name, object)
			}
			if value := LabelValue(name); len(validation.IsValidLabelValue(value)) > 0 || LabelValue(value) != value {
				t.Errorf("the label of %q is %q", name, value)
			}
		}
		if a != b && ObjectName(a) == ObjectName(b) {
			t.Errorf("the objects of %q and %q have one name", a, b)
		}
		// A name that already is the short form of another one has the same label.
		if a != b && LabelValue(a) == LabelValue(b) && LabelValue(a) != b && LabelValue(b) != a {
			t.Errorf("%q and %q have one label", a, b)
		}
	})
}
