#!/usr/bin/env bash
# Demonstrates the main promise on a real cluster: applies twenty orders as WorkflowRuns,
# kills a worker while it executes runs, and checks the payment ledger and the mailbox:
# each card must be charged once and each email sent. Exits with 1 otherwise.
#
#   hack/demo.sh         uses the development cluster, and starts it if it is down
#   hack/demo.sh down    removes everything that it started
#
# With DEMO_CONTEXT=<kubectl context> it uses that cluster instead, and needs
# DEMO_POSTGRES_URL (a database that pods and this machine reach) and the images in
# DEMO_MANAGER_IMAGE and DEMO_CHECKOUT_IMAGE.
. "$(dirname "$0")/devcluster/lib.sh"
root=$(cd "$here/../.." && pwd)
cd "$root"

namespace=openworkflow-demo
: "${DEMO_CONTEXT:=}"
: "${DEMO_MANAGER_IMAGE:=localhost/manager:dev}"
: "${DEMO_CHECKOUT_IMAGE:=localhost/checkout:dev}"

if [ -n "$DEMO_CONTEXT" ]; then
	kubectl="kubectl --context $DEMO_CONTEXT"
	k() { kubectl --context "$DEMO_CONTEXT" "$@"; }
	sql() { psql -X -q "$DEMO_POSTGRES_URL" "$@"; }
else
	kubectl=$BIN/kubectl
	export KUBECONFIG=$KUBECONFIG_ADMIN
	sql() { "$root/hack/postgres.sh" psql -q "$@"; }
fi
kn() { k -n "$namespace" "$@"; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

down() {
	if [ -n "$DEMO_CONTEXT" ]; then
		k delete namespace "$namespace" --ignore-not-found
		k delete -k config/default --ignore-not-found
	else
		hack/devcluster/down.sh --wipe
	fi
}

# in_the_middle prints a worker pod whose runs have all charged their cards and have not all
# sent their emails, so that the crash falls between charge and email.
in_the_middle() {
	sql -At <<-SQL
		WITH active AS (
			SELECT split_part(r.worker_id, '.', 1) AS pod_uid, l.pod,
			       EXISTS (SELECT FROM openworkflow.step_attempts a WHERE a.workflow_run_id = r.id
			               AND a.step_name = 'charge-card' AND a.status = 'completed')
			       AND l.charged_at < now() - interval '1.2 s' AS charged -- time for a status report
			FROM openworkflow.workflow_runs r
			LEFT JOIN checkout_ledger l ON l.run_id = r.id
			WHERE r.namespace_id = '$namespace' AND r.status = 'running' AND r.worker_id IS NOT NULL
		)
		SELECT max(pod) FROM active GROUP BY pod_uid HAVING bool_and(charged) ORDER BY count(*) DESC LIMIT 1
	SQL
}

# crash sends SIGKILL to the process of a pod's container.
crash() {
	local id
	if [ -n "$DEMO_CONTEXT" ]; then
		kn delete pod "$1" --force --grace-period=0 2>/dev/null
		return
	fi
	id=$(kn get pod "$1" -o 'jsonpath={.status.containerStatuses[0].containerID}')
	hack/devcluster/kill.sh "${id#containerd://}"
}

check() {
	step "The oracle: payment ledger and mailbox"
	sql <<-SQL
		SELECT count(*) AS "orders", sum((charges = 1)::int) AS "charged once", sum((charges > 1)::int) AS "charged twice",
		       sum((emails >= 1)::int) AS "email sent"
		FROM (SELECT r.id,
		             (SELECT count(*) FROM checkout_ledger l WHERE l.run_id = r.id) AS charges,
		             (SELECT count(*) FROM checkout_mailbox m WHERE m.run_id = r.id) AS emails
		      FROM openworkflow.workflow_runs r WHERE r.id = ANY (string_to_array('$ids', ','))) AS o
	SQL
	wrong=$(sql -At <<-SQL
		SELECT count(*) FROM unnest(string_to_array('$ids', ',')) AS run (id)
		WHERE (SELECT count(*) FROM checkout_ledger l WHERE l.run_id = run.id) <> 1
		   OR (SELECT count(*) FROM checkout_mailbox m WHERE m.run_id = run.id) < 1
	SQL
	)
	if [ "$wrong" != 0 ]; then die "$wrong orders were charged more or less than once, or got no email"; fi
}

if [ "${1:-}" = down ]; then
	down
	exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "$DEMO_CONTEXT" ]; then
	step "A cluster, from Go modules and Debian packages (the first build takes minutes)"
	hack/devcluster/up.sh
	hack/postgres.sh start
	step "Images of the manager and of examples/checkout"
	make --no-print-directory images
	DEMO_POSTGRES_URL=$(hack/postgres.sh url)
else
	: "${DEMO_POSTGRES_URL:?with DEMO_CONTEXT, give the URL of a database that pods and this machine reach}"
fi

step "The operator"
make --no-print-directory deploy KUBECTL="$kubectl" IMG="$DEMO_MANAGER_IMAGE"

step "A Backend, and a WorkerPool of two pods"
k create namespace "$namespace" --dry-run=client -o yaml | k apply -f - >/dev/null
kn create secret generic openworkflow-postgres --from-literal=uri="$DEMO_POSTGRES_URL" --dry-run=client -o yaml | kn apply -f - >/dev/null
kn delete workflowruns --all --wait >/dev/null # of an earlier demo
kn apply -f config/samples/backend.yaml
kn wait --for=condition=Ready backend/default --timeout=60s
# The annotation replaces the pods if the image has changed behind its tag.
sed -e "s|image: .*/checkout:.*|image: $DEMO_CHECKOUT_IMAGE|" config/samples/workerpool.yaml |
	k patch --local -f - --type merge -o yaml -p "{\"spec\": {\"replicas\": 2, \"concurrency\": 5,
		\"template\": {\"metadata\": {\"annotations\": {\"demo\": \"$(date +%s)\"}}}}}" |
	kn apply -f -
kn wait --for=condition=Ready workerpool/checkout --timeout=120s
kn get backends,workerpools

step "Twenty orders: kubectl apply -f config/samples/orders.yaml"
kn apply -f config/samples/orders.yaml | tail -n 3
ids=$(kn get workflowruns -o 'jsonpath={range .items[*]}{.metadata.uid},{end}')
ids=${ids%,}

victim=
for ((i = 0; i < 300; i++)); do
	victim=$(in_the_middle 2>/dev/null || true)
	[ -z "$victim" ] || break
	sleep 0.1
done
[ -n "$victim" ] || die "no worker was found between charge and email"
kn get workflowruns
step "SIGKILL of the worker in pod $victim, between charge and email"
crash "$victim"
before=$SECONDS
kn wait --for=condition=Complete workflowruns --all --timeout=120s >/dev/null || {
	kn get workflowruns -o wide
	die "not every run has completed"
}
step "All runs are complete, $((SECONDS - before)) s after the crash"
kn get workflowruns

step "Runs that the crash interrupted: charged by one worker, email sent by its successor"
sql <<-SQL
	SELECT l.order_id AS "order", r.attempts AS "claims", l.pod AS "charged by", m.pod AS "email sent by",
	       to_char(m.sent_at - l.charged_at, 'SS.MS') AS "seconds between"
	FROM openworkflow.workflow_runs r
	JOIN checkout_ledger l ON l.run_id = r.id
	JOIN checkout_mailbox m ON m.run_id = r.id
	WHERE r.id = ANY (string_to_array('$ids', ',')) AND r.attempts > 1
	ORDER BY 1
SQL
check
step "Every card was charged exactly once, every email was sent."
