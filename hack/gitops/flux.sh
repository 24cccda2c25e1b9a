#!/usr/bin/env bash
# Runs Flux's source-controller and kustomize-controller, built from their Go modules, on the
# development cluster: as processes of this machine that listen on loopback only, with the rights
# that "flux install" gives them (those of an administrator). down.sh ends them with the cluster.
#
#   hack/gitops/flux.sh build    build the controllers, unless they are
#   hack/gitops/flux.sh start    build what is missing, install Flux's kinds, start what does not run
#   hack/gitops/flux.sh stop
. "$(dirname "$0")/../devcluster/lib.sh"

source=$here/../gitops
storage=127.0.0.1:$((DEVCLUSTER_PORT + 4)) # where kustomize-controller fetches what source-controller has fetched
controllers=(source-controller kustomize-controller)

# build builds the controllers, and copies the definitions of their kinds, once for these versions.
build() {
	local key name
	cd "$source"
	key=$({ go env GOVERSION GOARCH; cat go.mod go.sum; } | sha256sum | cut -c1-16)
	flux=$CACHE/flux-$key
	[ ! -e "$flux" ] || return 0
	rm -rf "$flux.new"
	mkdir -p "$flux.new/crds"
	for name in "${controllers[@]}"; do
		say "building Flux's $name $(go list -mod=readonly -m -f '{{.Version}}' "github.com/fluxcd/$name") (minutes the first time)"
		CGO_ENABLED=0 GOWORK=off nice go build -mod=readonly -trimpath -buildvcs=false -ldflags '-s -w' \
			-o "$flux.new/$name" "github.com/fluxcd/$name"
		cp "$(go list -mod=readonly -m -f '{{.Dir}}' "github.com/fluxcd/$name")"/config/crd/bases/*.yaml "$flux.new/crds"
	done
	chmod -R u+w "$flux.new"
	mv "$flux.new" "$flux"
}

# controller NAME ARG... starts a controller. Its metrics and its health are not served.
controller() {
	local name=$1
	shift
	start "flux-$name" env KUBECONFIG="$KUBECONFIG_ADMIN" RUNTIME_NAMESPACE=flux-system \
		"$flux/$name" --metrics-addr=0 --health-addr=0 --log-level=info "$@"
}

case ${1:-} in
build) build ;;
start)
	build
	k apply --server-side --force-conflicts -f "$flux/crds" >/dev/null
	k wait --for=condition=Established --timeout=60s -f "$flux/crds" >/dev/null
	k create namespace flux-system --dry-run=client -o yaml | k apply --server-side -f - >/dev/null
	mkdir -p "$STATE/flux"
	controller source-controller --storage-path="$STATE/flux" --storage-addr="$storage" --storage-adv-addr="$storage"
	controller kustomize-controller --requeue-dependency=2s --feature-gates=CancelHealthCheckOnNewRevision=true
	say "Flux runs; its logs are $STATE/logs/flux-*.log"
	;;
stop) for name in "${controllers[@]}"; do stop "flux-$name"; done ;;
*) die "usage: flux.sh build|start|stop" ;;
esac
