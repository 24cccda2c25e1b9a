package backend

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/internal/store"
)

func TestHash_ChangesWithWhatAConnectionIsOpenedWith(t *testing.T) {
	t.Parallel()
	one := Hash(store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "n"}, "postgres://m")
	for what, other := range map[string]string{
		"url":           Hash(store.Options{URL: "postgres://b", Schema: "s", NamespaceID: "n"}, "postgres://m"),
		"migration url": Hash(store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "n"}, "postgres://o"),
		"schema":        Hash(store.Options{URL: "postgres://a", Schema: "t", NamespaceID: "n"}, "postgres://m"),
		"namespace":     Hash(store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "m"}, "postgres://m"),
	} {
		if other == one {
			t.Errorf("the hash stays with another %s", what)
		}
	}
}

// TestPodsHash_P9_SaysNothingOfTheURL: the hash is published, so it must not confirm a guess.
func TestPodsHash_P9_SaysNothingOfTheURL(t *testing.T) {
	t.Parallel()
	secret := func(version, url string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "uid", ResourceVersion: version}, Data: map[string][]byte{"uri": []byte(url)},
		}
	}
	options := store.Options{URL: "postgres://a", Schema: "s", NamespaceID: "n"}
	one := PodsHash(options, PodSecret{secret("1", "postgres://a"), "uri"})
	if PodsHash(store.Options{URL: "postgres://b", Schema: "s", NamespaceID: "n"}, PodSecret{secret("1", "postgres://b"), "uri"}) != one {
		t.Error("the hash depends on the URL")
	}
	for what, other := range map[string]string{
		"version of the Secret": PodsHash(options, PodSecret{secret("2", "postgres://a"), "uri"}),
		"key":                   PodsHash(options, PodSecret{secret("1", "postgres://a"), "url"}),
		"schema":                PodsHash(store.Options{Schema: "t", NamespaceID: "n"}, PodSecret{secret("1", ""), "uri"}),
		"mode":                  PodsHash(store.Options{Schema: "s", NamespaceID: "n", Encryption: store.Encryption{Mode: "require"}}, PodSecret{secret("1", ""), "uri"}),
		"CA":                    PodsHash(options, PodSecret{secret("1", "postgres://a"), "uri"}, PodSecret{secret("1", ""), "ca.crt"}),
		"namespace":             PodsHash(store.Options{Schema: "s", NamespaceID: "m"}, PodSecret{secret("1", ""), "uri"}),
	} {
		if other == one {
			t.Errorf("the hash stays with another %s", what)
		}
	}
}
