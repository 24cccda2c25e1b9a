#!/usr/bin/env bash
# Builds container images from this checkout without a container engine, and loads
# them into the development cluster when it is up.
#
#   hack/images.sh              localhost/manager:dev, and localhost/NAME:dev for each of examples/
#   hack/images.sh NAME...      only these; also "checkout-forgetful", a worker that does
#                               not remember its steps, to see that the checks notice
. "$(dirname "$0")/devcluster/lib.sh"
cd "$here/../.."

"$here/build.sh" control
out=dist/images
mkdir -p "$out"

names=("$@")
if [ ${#names[@]} = 0 ]; then
	names=(manager)
	for main in examples/*/main.go; do names+=("$(basename "$(dirname "$main")")"); done
fi
for name in "${names[@]}"; do
	package=./examples/${name%-forgetful} tags=
	[ "$name" != manager ] || package=./cmd/manager
	[[ $name != *-forgetful ]] || tags=openworkflow_forget
	say "image localhost/$name:dev from $package"
	CGO_ENABLED=0 go build -trimpath -tags "$tags" -ldflags '-s -w' -o "$out/$name" "$package"
	image -name "localhost/$name:dev" -o "$out/$name.tar" -user 65532:65532 -entrypoint "/$name" \
		"$out/$name:/$name" >/dev/null
	if [ -n "$(find "$STATE"/node*/containerd.sock 2>/dev/null)" ]; then "$here/load.sh" "$out/$name.tar" >/dev/null; fi
done
