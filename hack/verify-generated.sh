#!/usr/bin/env bash
# Fails if a generated file differs from what "make generate manifests charts" makes of the
# checkout, committed or not.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
go tool controller-gen object paths=./api/v1alpha1/... output:object:dir="$fresh/object"
go tool controller-gen object paths=./api/data/v1alpha1/... output:object:dir="$fresh/data-object"
go tool controller-gen crd paths=./api/v1alpha1/... output:crd:dir="$fresh/crd"
hack/openapi.sh "$fresh/openapi"
go tool controller-gen rbac:roleName=openworkflow-manager paths=./internal/controller/... output:rbac:dir="$fresh/rbac"
cp -R charts "$fresh/charts" && go run ./hack/charts "$fresh/charts"

status=0
diff -u api/v1alpha1/zz_generated.deepcopy.go "$fresh/object/zz_generated.deepcopy.go" || status=1
diff -u api/data/v1alpha1/zz_generated.deepcopy.go "$fresh/data-object/zz_generated.deepcopy.go" || status=1
diff -u internal/dataapi/openapi/zz_generated.openapi.go "$fresh/openapi/zz_generated.openapi.go" || status=1
diff -ur --exclude=kustomization.yaml config/crd/bases "$fresh/crd" || status=1
diff -u config/rbac/role.yaml "$fresh/rbac/role.yaml" || status=1
diff -ur charts "$fresh/charts" || status=1
[ $status = 0 ] || echo 'generated files are not current: run "make generate manifests charts"' >&2

for crd in config/crd/bases/*.yaml; do
	# kubectl apply stores a copy in an annotation, and annotations are limited to 256 KiB.
	[ "$(wc -c <"$crd")" -lt 262144 ] || { echo "$crd is too large for kubectl apply" >&2; status=1; }
done
exit $status
