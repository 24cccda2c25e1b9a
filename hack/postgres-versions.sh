#!/usr/bin/env bash
# Runs a command once for each of the given major versions of Postgres, with
# TEST_POSTGRES_BIN naming its programs. They come from npm packages that
# hack/postgres-versions pins.
#
#   hack/postgres-versions.sh "15 18" go test ./internal/store/
set -euo pipefail
cd "$(dirname "$0")/.."

versions=$1
shift
# Postgres refuses to run as root, and root's cache is closed to other users.
cache=${XDG_CACHE_HOME:-$HOME/.cache}
[ "$(id -u)" != 0 ] || cache=/var/cache
target=$cache/openworkflow-postgres
hack/npm.sh hack/postgres-versions "$target"
for version in $versions; do
	package=$target/node_modules/postgres-$version
	[ -d "$package" ] || { echo "Postgres $version is not among hack/postgres-versions" >&2; exit 2; }
	(cd "$package" && node scripts/hydrate-symlinks.js) # npm packages hold no links
	printf '\n=== %s\n' "$("$package/native/bin/postgres" --version)"
	TEST_POSTGRES_BIN=$package/native/bin "$@"
done
