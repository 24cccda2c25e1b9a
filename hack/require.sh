#!/usr/bin/env bash
# Installs, from Debian or Ubuntu packages, what is missing of the named things.
# Does nothing, and needs no root, when all is there.
#
#   hack/require.sh node postgres shellcheck
set -euo pipefail

packages=()
need() { # PACKAGE COMMAND...: the package is missing when the command fails
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
has() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1"; }

for thing in "$@"; do
	case $thing in
	node) # what a node of the development cluster needs besides what we build
		need runc has runc
		need nftables has nft
		need iproute2 has ip
		need openssl has openssl
		need containernetworking-plugins test -x /usr/lib/cni/bridge
		;;
	nodejs) # Node.js, which is not a node
		need nodejs has node
		need npm has npm
		;;
	chromium) need chromium has chromium ;;
	openssl) need openssl has openssl ;;
	postgres) need postgresql bash -c 'ls /usr/lib/postgresql/*/bin/postgres' ;;
	race) # cgo, for the race detector
		need gcc has gcc
		need libc6-dev test -e /usr/include/stdio.h
		;;
	shellcheck) need shellcheck has shellcheck ;;
	*) echo "require.sh: unknown: $thing" >&2; exit 2 ;;
	esac
done
[ ${#packages[@]} -gt 0 ] || exit 0

by_hand="install by hand: ${packages[*]}"
command -v apt-get >/dev/null || { echo "no apt-get here; $by_hand" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "not root; $by_hand" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	echo "installing $*" >&2
	local apt=(apt-get install -qq -y --no-install-recommends "$@")
	export DEBIAN_FRONTEND=noninteractive
	{ "${apt[@]}" || { apt-get update && "${apt[@]}"; }; } >"$log" 2>&1 </dev/null ||
		{ tail -n 20 "$log" >&2; echo "could not install $*" >&2; exit 1; }
}

if [[ " ${packages[*]} " == *" postgresql "* ]]; then
	# We want the programs only. Debian's package would also create and start a
	# server on the usual port; keep it from that while we install it.
	install postgresql-common
	settings=/etc/postgresql-common/createcluster.conf
	cp -p "$settings" "$settings.kept"
	echo "create_main_cluster = false" >>"$settings"
	(install "${packages[@]}") || failed=1
	mv "$settings.kept" "$settings"
	exit "${failed:-0}"
fi
install "${packages[@]}"
