package v1alpha1

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxCreatorGroups is the number of groups that AnnotationCreatedBy has at most. Of a user who is in
// more it has none.
const MaxCreatorGroups = 100

// maxCreator is the length of an annotation that is read, in bytes. The API server keeps 256 KiB of
// annotations for an object.
const maxCreator = 256 << 10

// ErrNoCreator means that an object does not say who has created it.
var ErrNoCreator = errors.New("the object does not say who has created it")

// String returns the value of AnnotationCreatedBy, as the admission policies make it.
func (c Creator) String() string {
	groups := c.Groups
	if len(groups) > MaxCreatorGroups {
		groups = nil
	}
	quoted := make([]string, len(groups))
	for i, g := range groups {
		quoted[i] = quoteCEL(g)
	}
	return `{"username":` + quoteCEL(c.Username) + `,"groups":[` + strings.Join(quoted, ",") + `]}`
}

// ParseCreator reads who has created an object from its annotations. It returns ErrNoCreator if they
// do not say that, and another error if what they say cannot be read, as of a name with a control
// character.
func ParseCreator(annotations map[string]string) (Creator, error) {
	text, ok := annotations[AnnotationCreatedBy]
	if !ok {
		return Creator{}, ErrNoCreator
	}
	var c Creator
	if len(text) > maxCreator {
		return Creator{}, fmt.Errorf("annotation %s has %d bytes, the limit is %d", AnnotationCreatedBy, len(text), maxCreator)
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return Creator{}, fmt.Errorf("annotation %s is no JSON of a username and groups", AnnotationCreatedBy)
	}
	if c.Username == "" {
		return Creator{}, fmt.Errorf("annotation %s has no username", AnnotationCreatedBy)
	}
	return c, nil
}

// celEscapes are the characters that strings.quote of CEL escapes.
var celEscapes = strings.NewReplacer("\a", `\a`, "\b", `\b`, "\f", `\f`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\v", `\v`, `\`, `\\`, `"`, `\"`)

// quoteCEL is strings.quote of CEL, which is JSON but for some control characters.
func quoteCEL(text string) string {
	return `"` + celEscapes.Replace(strings.ToValidUTF8(text, "\uFFFD")) + `"`
}
