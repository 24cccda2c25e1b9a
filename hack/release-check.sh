#!/usr/bin/env bash
# Checks goreleaser's configuration, and that a release can be reproduced: makes the files of the
# commit that is checked out in two clones, in directories of different depth, with other umasks
# and time zones, the second with an empty build cache, and compares all bytes. PLATFORMS is by
# default this machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

"$(hack/tool.sh goreleaser)" check
scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch" && rm -rf "$scratch"' EXIT
export VERSION=v0.0.0-check BASE_URL=https://example.com/v0.0.0-check # no release has this tag
PLATFORMS=${PLATFORMS:-$(go env GOOS)/$(go env GOARCH)}
export PLATFORMS
one=$scratch/one two=$scratch/two/deeper
for clone in "$one" "$two"; do git clone -q --no-hardlinks . "$clone"; done
(umask 022 && "$one/hack/release.sh" >&2)
(umask 077 && TZ=Asia/Tokyo GOCACHE=$scratch/cache "$two/hack/release.sh" >&2)
diff -r "$one/dist/release" "$two/dist/release"
cat "$one/dist/release/SHA256SUMS"
