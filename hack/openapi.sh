#!/usr/bin/env bash
# Generates the OpenAPI schema of the data API into a directory.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "$1"
violations=$(mktemp) # the API conventions' linter prints there; make lint-api has ours
trap 'rm -f "$violations"' EXIT
go tool openapi-gen --output-dir "$1" --output-file zz_generated.openapi.go --report-filename "$violations" \
	--output-pkg github.com/openworkflow-operator/operator/internal/dataapi/openapi \
	./api/data/v1alpha1 \
	k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 \
	k8s.io/apimachinery/pkg/apis/meta/v1 \
	k8s.io/apimachinery/pkg/runtime \
	k8s.io/apimachinery/pkg/version
