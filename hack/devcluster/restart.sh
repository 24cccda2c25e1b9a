#!/usr/bin/env bash
# Kills processes of the cluster and starts them again.
#
#   ./restart.sh apiserver [NAME...]
. "$(dirname "$0")/lib.sh"

for name in "$@"; do
	alive "$name" || die "$name does not run"
	stop "$name" KILL
done
"$here/up.sh"
