#!/usr/bin/env bash
# Prints the path of a pinned development tool, and builds it first if necessary.
# Each tool is a module below hack/tools. Builds are cached outside of the checkout, under
# names that change with the module's files and with Go's version.
#
#   "$(hack/tool.sh lint)" run ./...
set -euo pipefail

name=$1
source=$(cd "$(dirname "$0")/tools/$name" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/openworkflow-operator/bin
key=$({ go env GOVERSION GOARCH; cat "$source"/*; } | sha256sum | cut -c1-16)
program=$cache/$name-$key

if [ ! -x "$program" ]; then
	cd "$source"
	package=$(go list -mod=readonly tool 2>/dev/null) # empty for a program of our own
	echo "building $name (once)" >&2
	mkdir -p "$cache"
	CGO_ENABLED=0 GOWORK=off nice go build -mod=readonly -trimpath -buildvcs=false \
		-ldflags '-s -w' -o "$program.$$" "${package:-.}" >&2
	mv "$program.$$" "$program"
fi
echo "$program"
