package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// maxChildName bounds the names of owned objects, so that Kubernetes can append
// to a Deployment's name those of its ReplicaSets and pods.
const maxChildName = 47

// childName returns the name of the objects that a pool owns: the pool's name,
// cut if need be, and a hash of it. The hash keeps them apart from what a user
// made under the pool's plain name, which is never to be taken over.
func childName(pool string) string {
	return shorten(pool, maxChildName)
}

// labelValue returns a name as a label's value: itself when it is a valid one,
// else a shortened form that ends in a hash. Names of objects may be four times
// as long as a label's value.
func labelValue(name string) string {
	if len(validation.IsValidLabelValue(name)) == 0 {
		return name
	}
	return shorten(name, validation.LabelValueMaxLength)
}

func shorten(name string, limit int) string {
	sum := sha256.Sum256([]byte(name))
	suffix := "-" + hex.EncodeToString(sum[:4])
	if limit -= len(suffix); len(name) > limit {
		name = name[:limit]
	}
	// Dots are valid in the names of pools, but not everywhere in those of pods.
	return strings.TrimRight(strings.ReplaceAll(name, ".", "-"), "-") + suffix
}
