#!/usr/bin/env bash
# Ends the process of a container with SIGKILL, as a crash of the machine would.
#
#   ./kill.sh CONTAINER-ID
. "$(dirname "$0")/lib.sh"

for socket in "$STATE"/node*/containerd.sock; do
	if ctr -a "$socket" -n k8s.io tasks kill -s SIGKILL "$1" 2>/dev/null; then exit; fi
done
die "no node runs container $1"
