package poolspec

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// maxObjectName bounds the names of owned objects, so that Kubernetes can append the
// suffixes of ReplicaSets and pods to a Deployment's name.
const maxObjectName = 47

// ObjectName returns the name of the objects that a pool owns: the pool's name, cut to
// fit, and a hash of it. With the hash, an object that a user has created under the
// pool's plain name is never overwritten.
func ObjectName(pool string) string {
	return shorten(pool, maxObjectName)
}

// LabelValue returns a name as the value of a label: the name itself if it is valid,
// otherwise a shortened form that ends in a hash. Names of objects may have 253
// characters, values of labels 63.
func LabelValue(name string) string {
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
	// The name of a pool may have dots, which a pod's host name may not.
	return strings.TrimRight(strings.ReplaceAll(name, ".", "-"), "-") + suffix
}
