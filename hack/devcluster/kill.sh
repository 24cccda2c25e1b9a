#!/usr/bin/env bash
# Sends a signal to the process of a container: by default SIGKILL, which ends it as a
# crash of the machine would. SIGSTOP freezes it, SIGCONT thaws it.
#
#   ./kill.sh CONTAINER-ID [SIGNAL]
. "$(dirname "$0")/lib.sh"

for socket in "$STATE"/node*/containerd.sock; do
	if ctr -a "$socket" -n k8s.io tasks kill -s "${2:-SIGKILL}" "$1" 2>/dev/null; then exit; fi
done
die "no node runs container $1"
