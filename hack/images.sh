#!/usr/bin/env bash
# Builds container images from this checkout without a container engine, and loads
# them into the development cluster if it is up.
#
#   hack/images.sh              localhost/manager:dev, and localhost/NAME:dev for each of examples/
#   hack/images.sh NAME...      only these; also "checkout-forgetful", a worker that does not
#                               memoize steps, which proves that the checks can fail, and
#                               "typescript", the worker of examples/typescript
. "$(dirname "$0")/devcluster/lib.sh"
cd "$here/../.."

"$here/build.sh" control
out=dist/images
mkdir -p "$out"

# load loads an archive into the cluster's nodes.
load() {
	if [ -n "$(find "$STATE"/node*/containerd.sock 2>/dev/null)" ]; then "$here/load.sh" "$1" >/dev/null; fi
}

# typescript builds an image of this machine's Node.js with its shared libraries, the worker
# and its npm packages.
typescript() {
	local source=examples/typescript into=$out/typescript-worker node files file
	say "image localhost/typescript:dev from $source"
	hack/npm.sh "$source" "$into"
	node=$(node -p process.execPath)
	files=("$node:/bin/node" "$source/worker.mjs:/app/worker.mjs" "$into/package.json:/app/package.json"
		"$into/node_modules:/app/node_modules")
	for file in $(ldd "$node" | grep -o '/[^ ]*'); do files+=("$(readlink -f "$file"):$file"); done
	image -name localhost/typescript:dev -o "$out/typescript.tar" -user 65532:65532 -workdir /app \
		-entrypoint /bin/node -entrypoint worker.mjs "${files[@]}" >/dev/null
	load "$out/typescript.tar"
}

names=("$@")
if [ ${#names[@]} = 0 ]; then
	names=(manager)
	for main in examples/*/main.go; do names+=("$(basename "$(dirname "$main")")"); done
fi
for name in "${names[@]}"; do
	if [ "$name" = typescript ]; then
		typescript
		continue
	fi
	package=./examples/${name%-forgetful} tags=
	[ "$name" != manager ] || package=./cmd/manager
	[[ $name != *-forgetful ]] || tags=openworkflow_forget
	say "image localhost/$name:dev from $package"
	CGO_ENABLED=0 go build -trimpath -tags "$tags" -ldflags '-s -w' -o "$out/$name" "$package"
	image -name "localhost/$name:dev" -o "$out/$name.tar" -user 65532:65532 -entrypoint "/$name" \
		"$out/$name:/$name" >/dev/null
	load "$out/$name.tar"
done
