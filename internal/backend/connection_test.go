package backend

import (
	"testing"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestHash_IsShortAndChanges(t *testing.T) {
	t.Parallel()
	ref := v1alpha1.SecretKeyRef{Name: "db", Key: "uri"}
	one := Hash(store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "n"}, ref)
	for what, other := range map[string]string{
		"url":       Hash(store.Options{URL: "postgres://b", Schema: "s", NamespaceID: "n"}, ref),
		"schema":    Hash(store.Options{URL: "postgres://a", Schema: "t", NamespaceID: "n"}, ref),
		"namespace": Hash(store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "m"}, ref),
	} {
		if other == one {
			t.Errorf("the hash stays with another %s", what)
		}
	}
	if len(one) != 10 {
		t.Errorf("hash is %q", one)
	}
}
