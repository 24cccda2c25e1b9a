#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the named things need and that are missing.
# It prints them, with the reason and the command, before it installs them as root. With
# NO_INSTALL=1 it installs nothing, and fails if a package is missing. If nothing is
# missing, it prints nothing and needs no root.
#
#   hack/require.sh node postgres shellcheck
set -euo pipefail

packages=() reasons=()
need() { # PACKAGE REASON COMMAND...: the package is missing if the command fails
	local package=$1 reason=$2
	shift 2
	"$@" >/dev/null 2>&1 || { packages+=("$package") reasons+=("$reason"); }
}
has() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1"; }

for thing in "$@"; do
	case $thing in
	node) # what a node of the development cluster needs besides what we build
		need runc "runs the containers of the development cluster" has runc
		need nftables "routes packets to the cluster's services" has nft
		need iproute2 "sets up the cluster's networks" has ip
		need openssl "makes the cluster's certificates" has openssl
		need containernetworking-plugins "connects pods to the cluster's network" test -x /usr/lib/cni/bridge
		;;
	nodejs) # Node.js, which is not a node
		need nodejs "runs OpenWorkflow's own package" has node
		need npm "installs OpenWorkflow's own package" has npm
		;;
	chromium) need chromium "opens OpenWorkflow's dashboard in tests" has chromium ;;
	git) need git "is the server of the repository that Flux reads" has git ;;
	openssl) need openssl "makes certificates and passwords" has openssl ;;
	postgres) need postgresql "is the database of tests and of the development cluster" \
		bash -c 'ls /usr/lib/postgresql/*/bin/postgres' ;;
	pgbouncer) need pgbouncer "is the pooler of tests" has pgbouncer ;;
	race)
		need gcc "compiles Go's race detector" has gcc
		need libc6-dev "compiles Go's race detector" test -e /usr/include/stdio.h
		;;
	tmux) need tmux "is the terminal of k9s in tests" has tmux ;;
	shellcheck) need shellcheck "checks the scripts" has shellcheck ;;
	*) echo "require.sh: unknown: $thing" >&2; exit 2 ;;
	esac
done
[ ${#packages[@]} -gt 0 ] || exit 0

command="apt-get install -y --no-install-recommends ${packages[*]}"
fail() {
	printf '%s; to install by hand, as root:\n  %s\n' "$1" "$command" >&2
	exit 1
}
echo "Missing Debian packages:" >&2
for i in "${!packages[@]}"; do printf '  %-28s %s\n' "${packages[i]}" "${reasons[i]}" >&2; done
[ "${NO_INSTALL:-}" != 1 ] || fail "not installed, as NO_INSTALL=1 is set"
[ "$(id -u)" = 0 ] || fail "not installed, as this needs root"
command -v apt-get >/dev/null || fail "not installed, as there is no apt-get here"
printf 'Installing them (NO_INSTALL=1 prevents it):\n  %s\n' "$command" >&2

log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	local apt=(apt-get install -y --no-install-recommends "$@")
	export DEBIAN_FRONTEND=noninteractive
	{ "${apt[@]}" || { apt-get update && "${apt[@]}"; }; } >"$log" 2>&1 </dev/null ||
		{ tail -n 20 "$log" >&2; fail "could not install $*"; }
}

if [[ " ${packages[*]} " == *" postgresql "* ]]; then
	# We need the programs only. Debian's package would also create a server and start it
	# on the usual port, unless this setting is off during the installation.
	install postgresql-common
	settings=/etc/postgresql-common/createcluster.conf
	cp -p "$settings" "$settings.kept"
	echo "create_main_cluster = false" >>"$settings"
	(install "${packages[@]}") || failed=1
	mv "$settings.kept" "$settings"
	exit "${failed:-0}"
fi
install "${packages[@]}"
