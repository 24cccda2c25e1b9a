#!/usr/bin/env bash
# Runs each Fuzz function of the tree for a time, one after the other, and goes on after one
# that fails: hack/fuzz.sh 10m [flags of go test]. What it finds is written to testdata/fuzz of
# the package; commit it with the change that mends it.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?how long, such as 10m}
shift

failed=()
while read -r dir; do
	while read -r name; do
		printf '\n=== %s of .%s for %s\n' "$name" "${dir#"$PWD"}" "$time"
		# A worker may spend a minute on each new input to make it smaller, which is long where
		# an input needs a database.
		go test "$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 2s "$@" || failed+=("$name of .${dir#"$PWD"}")
	done < <(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$dir"/*_test.go)
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./...)

if ((${#failed[@]})); then
	printf '\nfailed: %s\n' "${failed[@]}" >&2
	exit 1
fi
