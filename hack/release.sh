#!/usr/bin/env bash
# Writes the files of a release to dist/release, by goreleaser and .goreleaser.yaml: archives of the
# manager and of the kubectl plugin, a bill of materials (CycloneDX) for each program, both Helm
# charts, install.yaml, a krew manifest and SHA256SUMS. It publishes nothing.
#
#   VERSION=v1.2.3    the release; a tag of that name, if there is one, must be this commit's
#   BASE_URL=…        where its files will be, for the krew manifest
#   IMAGE=…           the manager's image, whose tag is VERSION
#   PLATFORMS=…       only these, as in "linux/amd64 darwin/arm64"
set -euo pipefail
cd "$(dirname "$0")/.."

: "${VERSION:?name the release, as in VERSION=v1.2.3}"
: "${BASE_URL:?say where the files will be, as in BASE_URL=https://example.com/releases/v1.2.3}"
: "${IMAGE:=ghcr.io/openworkflow-operator/manager}"
all='linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64'
: "${PLATFORMS:=$all}"
if [[ ! $VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
	echo "VERSION=$VERSION: give a semantic version with a leading v" >&2
	exit 1
fi
for platform in $PLATFORMS; do
	if [[ " $all " != *" $platform "* ]]; then
		echo "PLATFORMS=$PLATFORMS: $platform is none of $all" >&2
		exit 1
	fi
done
if [[ -n $(git status --porcelain) ]]; then
	echo "the work tree differs from the commit, so nobody could make these files again: commit first" >&2
	exit 1
fi

goreleaser=$(hack/tool.sh goreleaser)
HELM=$(hack/tool.sh helm)
CYCLONEDX_GOMOD=$(hack/tool.sh cyclonedx-gomod)
export BASE_URL IMAGE HELM CYCLONEDX_GOMOD GORELEASER_CURRENT_TAG=$VERSION
unset GITHUB_TOKEN GITLAB_TOKEN GITEA_TOKEN # of no use, and refused if there are two
if [[ -z $(git remote) ]]; then # goreleaser fails without one
	export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=remote.origin.url GIT_CONFIG_VALUE_0=.
fi
skip=publish
if ! git rev-parse --quiet --verify "refs/tags/$VERSION" >/dev/null; then
	skip+=,validate # that this commit has the tag, which a version need not have to be tried out
fi
ignored=
for platform in $all; do
	[[ " $PLATFORMS " == *" $platform "* ]] || ignored+="{goos: ${platform%/*}, goarch: ${platform#*/}}, "
done

umask 022
rm -rf dist/release
mkdir -p dist/release
sed "s|ignore: \[|&$ignored|" .goreleaser.yaml | "$goreleaser" release --config - --clean --skip="$skip"
mv dist/goreleaser/{*.tar.gz,*.cdx.json,SHA256SUMS,krew/workflow.yaml} dist/release/
cd dist/release
sha256sum workflow.yaml >>SHA256SUMS # goreleaser writes the manifest after the sums
echo "dist/release has $(find . -type f | wc -l) files; SHA256SUMS names the others"
