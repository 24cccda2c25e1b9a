// Package crdtest decides in the process of a test what the API server does with a custom resource:
// whether it accepts an object, and what it stores of it. It uses the API server's own packages, so
// that a fuzz test can ask it ten thousand times a second.
//
//	crdtest.go  Load, Kind.Store, Kind.UpdateStatus
package crdtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubejson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// perCallLimit is the API server's limit of the cost of one rule.
const perCallLimit = 1_000_000

// Kind is a custom resource as a CustomResourceDefinition describes it.
type Kind struct {
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

// Load reads the CustomResourceDefinition in a file.
func Load(file string) (*Kind, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		return nil, err
	}
	var internal apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(crd.Spec.Versions[0].Schema, &internal, nil); err != nil {
		return nil, err
	}
	kind := &Kind{}
	if kind.structural, err = schema.NewStructural(internal.OpenAPIV3Schema); err != nil {
		return nil, err
	}
	if kind.validator, _, err = validation.NewSchemaValidator(internal.OpenAPIV3Schema); err != nil {
		return nil, err
	}
	kind.rules = cel.NewValidator(kind.structural, true, perCallLimit)
	return kind, nil
}

// Store returns what the API server stores of an object, status included, or why it refuses it.
func (k *Kind) Store(object []byte) ([]byte, error) {
	var content map[string]any
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(object, &content); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return k.check(content, nil)
}

// UpdateStatus returns what the API server stores once the status of a stored object is replaced,
// or why it refuses that.
func (k *Kind) UpdateStatus(stored, status []byte) ([]byte, error) {
	var before map[string]any
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(stored, &before); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	var value any
	if err := kubejson.UnmarshalCaseSensitivePreserveInts(status, &value); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	after := runtime.DeepCopyJSON(before)
	after["status"] = value
	return k.check(after, before)
}

func (k *Kind) check(content, before map[string]any) ([]byte, error) {
	defaulting.PruneNonNullableNullsWithoutDefaults(content, k.structural)
	defaulting.Default(content, k.structural)
	pruning.Prune(content, k.structural, true)
	var old any
	if before != nil {
		old = before
	}
	problems := validation.ValidateCustomResource(nil, content, k.validator)
	problems = append(problems, listtype.ValidateListSetsAndMaps(nil, k.structural, content)...)
	if len(problems) == 0 && k.rules != nil {
		var broken field.ErrorList
		broken, _ = k.rules.Validate(context.Background(), nil, k.structural, content, old, math.MaxInt64)
		problems = append(problems, broken...)
	}
	if len(problems) > 0 {
		return nil, problems.ToAggregate()
	}
	return json.Marshal(content)
}
