#!/usr/bin/env bash
# Records terminal sessions: executes the commands of hack/sessions/NAME.txt on the development
# cluster, which runs the operator, and writes them with their output to docs/sessions/NAME.md.
#
#   hack/sessions.sh           all sessions
#   hack/sessions.sh NAME...   only these
#
# A session has paragraphs, which blank lines separate. One whose lines begin with "# " is text. Any
# other one is a command for bash. It must end with 0, or with N if its last line ends with "#=> N".
# Each session has a namespace, a database and a pool of examples/checkout of its own, and the rights
# of the ClusterRole edit in that namespace.
. "$(dirname "$0")/devcluster/lib.sh"
cd "$here/../.."
root=$PWD
postgres=$root/hack/postgres.sh
export KUBECONFIG=$KUBECONFIG_ADMIN NO_COLOR=1 TZ=UTC

work=$(mktemp -d)
clean() {
	kubectl delete namespace shop --ignore-not-found --wait >/dev/null 2>&1 || true
	kubectl -n openworkflow-system delete rolebinding session-shop --ignore-not-found >/dev/null 2>&1 || true
	"$postgres" psql -q -c 'DROP DATABASE IF EXISTS session_shop WITH (FORCE)' >/dev/null
}
trap 'clean; rm -rf "$work"' EXIT

# with_database URL is the URL with the database of the session.
with_database() { sed -E 's|/[^/?]*(\?.*)?$|/session_shop\1|' <<<"$1"; }

# prepare makes what a session begins with, and kubeconfig and files of its user in $work.
prepare() {
	clean
	"$postgres" psql -q -c 'CREATE DATABASE session_shop'
	kubectl create namespace shop
	kubectl -n shop create secret generic openworkflow-postgres --from-literal=uri="$(with_database "$("$postgres" url)")"
	kubectl -n shop apply -f config/samples/backend.yaml
	kubectl -n shop wait --for=condition=Ready backend/default --timeout=60s
	sed -e 's|image: .*/checkout:.*|image: localhost/checkout:dev|' -e 's|value: 3s|value: 200ms|' config/samples/workerpool.yaml |
		kubectl -n shop apply -f -
	kubectl -n shop wait --for=condition=Ready workerpool/checkout --timeout=120s
	kubectl -n shop create serviceaccount ann
	kubectl -n shop create rolebinding ann --clusterrole=edit --serviceaccount=shop:ann
	kubectl -n openworkflow-system create rolebinding session-shop --role=openworkflow-data-api-connect --serviceaccount=shop:ann
	kubectl config view --raw --minify >"$work/kubeconfig"
	kubectl --kubeconfig "$work/kubeconfig" config set-credentials ann --token="$(kubectl -n shop create token ann)"
	kubectl --kubeconfig "$work/kubeconfig" config set-context --current --user=ann --namespace=shop
}

# execute runs a command in this shell, so that its variables stay, and writes it with its output.
execute() {
	local command=$1 want=0 code=0 began=$EPOCHREALTIME shown
	shown=$command
	if [[ $command =~ ^(.*)[[:space:]]+'#=> '([0-9]+)$ ]]; then shown=${BASH_REMATCH[1]} want=${BASH_REMATCH[2]}; fi
	set +e
	eval "$shown" >"$work/output" 2>&1 </dev/null
	code=$?
	set -e
	local took=$(((${EPOCHREALTIME/./} - ${began/./}) / 1000))
	printf '```console\n$ %s\n' "${shown//$'\n'/$'\n> '}"
	sed 's/[[:space:]]*$//' "$work/output"
	printf '```\n\n%d.%01d s' $((took / 1000)) $((took % 1000 / 100))
	if [ "$code" != 0 ]; then printf ', exit code %d' "$code"; fi
	printf '\n\n'
	if [ "$code" != "$want" ]; then
		printf '%s\n' "$shown" >&2
		cat "$work/output" >&2
		die "it ended with $code, not with $want"
	fi
}

record() {
	local paragraph=""
	printf '<!-- Recorded by hack/sessions.sh from hack/sessions/%s.txt. -->\n\n' "$1"
	while IFS= read -r line || [ -n "$line" ]; do
		if [ -n "$line" ]; then
			paragraph+=${paragraph:+$'\n'}$line
			continue
		fi
		write "$paragraph"
		paragraph=""
	done <"$2"
	write "$paragraph"
}

# write writes a paragraph.
write() {
	case $1 in
	"") ;;
	"# "*) sed -E 's/^# ?//' <<<"$1" && echo ;;
	*) execute "$1" ;;
	esac
}

names=("$@")
if [ ${#names[@]} = 0 ]; then for file in hack/sessions/*.txt; do names+=("$(basename "$file" .txt)"); done; fi
mkdir -p docs/sessions
for name in "${names[@]}"; do
	say "session $name"
	prepare >"$work/log" 2>&1 || { cat "$work/log" >&2; die "could not prepare the session"; }
	(
		cd "$work"
		export KUBECONFIG=$work/kubeconfig PATH=$root/bin:$PATH
		record "$name" "$root/hack/sessions/$name.txt" >"$work/session.md"
	)
	mv "$work/session.md" "docs/sessions/$name.md"
done
