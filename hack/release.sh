#!/usr/bin/env bash
# Writes the files of a release to dist/release: archives of the manager and of the kubectl
# plugin, a bill of materials (CycloneDX) for each program, both Helm charts, install.yaml, a
# krew manifest and SHA256SUMS. It publishes nothing. The same commit gives the same bytes
# (hack/release-check.sh): no time but the commit's, no paths, no stamp of version control.
#
#   VERSION=v1.2.3    the release
#   BASE_URL=…        where its files will be, for the krew manifest
#   IMAGE=…           the manager's image, whose tag is VERSION
#   PLATFORMS=…       only these, as in "linux/amd64 darwin/arm64"
set -euo pipefail
cd "$(dirname "$0")/.."

: "${VERSION:?name the release, as in VERSION=v1.2.3}"
: "${BASE_URL:?say where the files will be, as in BASE_URL=https://example.com/releases/v1.2.3}"
: "${IMAGE:=ghcr.io/openworkflow-operator/manager}"
: "${PLATFORMS:=linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}"
if [[ ! $VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
	echo "VERSION=$VERSION: give a semantic version with a leading v" >&2
	exit 1
fi
if [[ -n $(git status --porcelain) ]]; then
	echo "the work tree differs from the commit, so nobody could make these files again: commit first" >&2
	exit 1
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C CGO_ENABLED=0
umask 022

out=dist/release
rm -rf "$out"
mkdir -p "$out"
bom=$(hack/tool.sh cyclonedx-gomod)
helm=$(hack/tool.sh helm)

# archive PROGRAM OS ARCH builds a program, its archive and its bill of materials.
archive() {
	local binary=$1 name=$1_${VERSION}_$2_$3 work
	[[ $2 != windows ]] || binary+=.exe
	work=$(mktemp -d)
	GOOS=$2 GOARCH=$3 go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$work/$binary" "./cmd/$1"
	cp LICENSE "$work/"
	chmod 644 "$work/LICENSE"
	"$bom" bin -json -noserial -notimestamp -version "$VERSION" -output "$out/$name.cdx.json" "$work/$binary" 2>/dev/null
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$binary" LICENSE |
		gzip -n >"$out/$name.tar.gz"
	rm -r "$work"
}

# krew writes the manifest that names the archives of the plugin.
krew() {
	local platform archive line platforms='' binary
	for platform in $PLATFORMS; do
		archive=kubectl-workflow_${VERSION}_${platform/\//_}.tar.gz binary=kubectl-workflow
		[[ $platform != windows/* ]] || binary+=.exe
		platforms+="
  - selector:
      matchLabels: {os: ${platform%/*}, arch: ${platform#*/}}
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
}

for platform in $PLATFORMS; do
	archive kubectl-workflow "${platform%/*}" "${platform#*/}"
	[[ $platform == windows/* ]] || archive manager "${platform%/*}" "${platform#*/}"
done
krew
for chart in charts/*/; do
	"$helm" package "$chart" --version "${VERSION#v}" --app-version "$VERSION" -d "$out" >/dev/null
done
make --no-print-directory build-installer IMG="$IMAGE:$VERSION" >/dev/null
cp dist/install.yaml "$out/"
(cd "$out" && sha256sum -- * >SHA256SUMS)
echo "$out has $(find "$out" -type f | wc -l) files; SHA256SUMS names the others"
