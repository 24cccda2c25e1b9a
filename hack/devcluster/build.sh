#!/usr/bin/env bash
# Builds everything the cluster runs from public Go modules, into
# $DEVCLUSTER_CACHE/bin. Needs only Go and network access to a module proxy.
# A second run does nothing unless a pinned version or a source file changed.
#
#   ./build.sh control  etcd, kube-apiserver, kubectl (enough for envtest) and the image packer
#   ./build.sh          the same, and what a node needs
. "$(dirname "$0")/lib.sh"

what=${1:-all}

command -v go >/dev/null || die "Go is needed"
mkdir -p "$BIN" "$CACHE/stamps" "$CACHE/logs"
exec 9>"$CACHE/build.lock"
flock 9 # two builds at once (make demo beside make test) would trip over each other
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
flags=(-trimpath -buildvcs=false)

# fresh NAME INPUT... succeeds when NAME was already built from these inputs.
fresh() {
	local name=$1
	shift
	stamp=$({ go env GOVERSION GOARCH; cat "$@"; } | sha256sum)
	[ -x "$BIN/$name" ] && [ "$(cat "$CACHE/stamps/$name" 2>/dev/null)" = "$stamp" ]
}
built() { echo "$stamp" >"$CACHE/stamps/$1"; say "built $1 ($(du -Lh "$BIN/$1" | cut -f1))"; }

# build LOG ARG... runs "go build", saying every few seconds how far it is. With
# -v, go prints a line for each package that it has compiled.
build() {
	local log=$CACHE/logs/$1.log pid
	shift
	go build -v "${flags[@]}" "$@" >"$log" 2>&1 9>&- &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		for _ in {1..50}; do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.2
		done
		if kill -0 "$pid" 2>/dev/null; then say "  $(wc -l <"$log") packages compiled or fetched"; fi
	done
	wait "$pid" || { tail -n 20 "$log" >&2; die "go build failed; see $log"; }
}

# Every Kubernetes component, etcd, DNS and kubectl: one executable, many names.
if ! fresh kube "$here"/kube/*; then
	cd "$here/kube"
	version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	say "building Kubernetes $version (minutes the first time: about 2000 packages)"
	IFS=. read -r major minor _ <<<"${version#v}"
	at=k8s.io/component-base/version
	build kube -o "$BIN/kube" -ldflags "-s -w -X $at.gitVersion=$version \
		-X $at.gitMajor=$major -X $at.gitMinor=$minor -X $at.gitTreeState=clean -X $at.gitCommit=" .
	for name in etcd coredns kubectl kubelet kube-{apiserver,controller-manager,scheduler,proxy}; do
		ln -sf kube "$BIN/$name"
	done
	built kube
fi

# The image packer and the pause image every pod needs.
if ! fresh image "$here"/image/*.* "$here"/image/pause/*; then
	cd "$here/image"
	build image -ldflags '-s -w' -o "$BIN/image" .
	build pause -ldflags '-s -w' -o "$CACHE/pause" ./pause
	"$BIN/image" -name localhost/pause:1 -o "$CACHE/pause.tar" -entrypoint /pause \
		"$CACHE/pause:/pause" >/dev/null
	built image
fi
[ "$what" = control ] && exit

# containerd: newer than Debian's, because the kubelet asks for its 2.x interface.
if ! fresh containerd "$here"/containerd/*; then
	cd "$here/containerd"
	at=github.com/containerd/containerd/v2
	version=$(go list -m -f '{{.Version}}' $at)
	say "building containerd $version"
	build containerd -tags 'no_btrfs no_devmapper no_zfs' -o "$BIN/" \
		-ldflags "-s -w -X $at/version.Version=$version" \
		$at/cmd/ctr $at/cmd/containerd-shim-runc-v2 $at/cmd/containerd
	built containerd
fi
