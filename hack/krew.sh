#!/usr/bin/env bash
# Builds the kubectl plugin for PLATFORMS into archives, and the krew manifest that names them, in
# dist/krew. VERSION is the release's (v1.2.3); BASE_URL is where its archives will be.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${VERSION:?name the release, as in VERSION=v1.2.3}"
: "${BASE_URL:?say where the archives will be, as in BASE_URL=https://example.com/releases/v1.2.3}"
PLATFORMS=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}

if [[ ! $VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]]; then
	echo "VERSION=$VERSION: krew wants a semantic version with a leading v" >&2
	exit 1
fi
out=dist/krew
rm -rf "$out"
mkdir -p "$out"

platforms=
for platform in $PLATFORMS; do
	os=${platform%/*} arch=${platform#*/}
	binary=kubectl-workflow
	[[ $os == windows ]] && binary+=.exe
	work=$(mktemp -d)
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -ldflags='-s -w' -o "$work/$binary" ./cmd/kubectl-workflow
	cp LICENSE "$work/"
	archive=kubectl-workflow_${VERSION}_${os}_$arch.tar.gz
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -czf "$out/$archive" "$binary" LICENSE
	rm -r "$work"
	platforms+="
  - selector:
      matchLabels: {os: $os, arch: $arch}
    uri: ${BASE_URL%/}/$archive
    sha256: $(sha256sum "$out/$archive" | cut -d' ' -f1)
    bin: $binary"
done

while IFS= read -r line; do
	case $line in
	'  version: VERSION') echo "  version: $VERSION" ;;
	'  platforms: PLATFORMS') echo "  platforms:$platforms" ;;
	*) echo "$line" ;;
	esac
done <hack/krew.yaml >"$out/workflow.yaml"
echo "$out/workflow.yaml installs the plugin: kubectl krew install --manifest=$out/workflow.yaml"
