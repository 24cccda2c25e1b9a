#!/usr/bin/env bash
# Installs the npm packages that a directory's package-lock.json pins, unless they are
# installed.
#
#   hack/npm.sh SOURCE [TARGET]    into SOURCE/node_modules, or into TARGET/node_modules
set -euo pipefail

"$(dirname "$0")/require.sh" nodejs
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ||
	{ echo "Node.js is $(node --version) here; OpenWorkflow's package needs 20 or newer" >&2; exit 1; }
source=$1 target=${2:-$1}
mkdir -p "$target"
if [ "$target" != "$source" ]; then cp "$source"/package.json "$source"/package-lock.json "$target"; fi
pinned=$(sha256sum <"$target/package-lock.json")
stamp=$target/node_modules/.pinned
[ "$(cat "$stamp" 2>/dev/null)" != "$pinned" ] || exit 0
echo "installing npm packages into $target" >&2
npm ci --prefix "$target" --omit=dev --ignore-scripts --no-audit --no-fund >&2
echo "$pinned" >"$stamp"
