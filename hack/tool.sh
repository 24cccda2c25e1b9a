#!/usr/bin/env bash
# Prints the path of a pinned development tool, which it builds first if need be.
# Each tool is a module below hack/tools, and each build is kept outside of the
# checkout under a name that changes with its pins and with Go.
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
	package=$(go list -mod=readonly tool 2>/dev/null) # else a program of our own
	echo "building $name (once)" >&2
	mkdir -p "$cache"
	CGO_ENABLED=0 GOWORK=off nice go build -mod=readonly -trimpath -buildvcs=false \
		-ldflags '-s -w' -o "$program.$$" "${package:-.}" >&2
	mv "$program.$$" "$program"
fi
echo "$program"
