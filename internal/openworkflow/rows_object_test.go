package openworkflow

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// TestObjectRef_P9_ValidIsWhatKubernetesAccepts: no other name becomes part of a URL.
func TestObjectRef_P9_ValidIsWhatKubernetesAccepts(t *testing.T) {
	t.Parallel()
	names := []string{
		"", "a", "a-b", "a--b", "-a", "a-", "a.b", "a..b", ".", "..", "a.", ".a", "a.-b", "a-.b", "a.b-", "A", "1", "1.2", "é", "a/b", "../a", "a%2fb",
		"a b", "a\x00", "a\n", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 253), strings.Repeat("a", 254),
	}
	for _, name := range names {
		isLabel, isSubdomain := len(validation.IsDNS1123Label(name)) == 0, len(validation.IsDNS1123Subdomain(name)) == 0
		if ref := (ObjectRef{Namespace: name, Name: "order"}); ref.Valid() != isLabel {
			t.Errorf("namespace %q: valid %t, want %t", name, ref.Valid(), isLabel)
		}
		if ref := (ObjectRef{Namespace: "shop", Name: name}); ref.Valid() != isSubdomain {
			t.Errorf("name %q: valid %t, want %t", name, ref.Valid(), isSubdomain)
		}
		context := RunContext{Kubernetes: &ObjectRef{Namespace: "shop", Name: name, UID: "uid"}}
		if got := (&Run{Context: context.Encode()}).Object(); (got != nil) != isSubdomain {
			t.Errorf("a row that names %q: object %+v", name, got)
		}
	}
}
