#!/usr/bin/env bash
# Runs a private Postgres for the development cluster, with Debian's programs. It listens
# only on this machine's loopback and on the cluster's bridge. Its data is deleted with the
# cluster's (hack/devcluster/down.sh --wipe).
#
#   hack/postgres.sh start          start it; the cluster must be up
#   hack/postgres.sh stop [MODE]    fast (default), or immediate, as in a crash
#   hack/postgres.sh restart [MODE]
#   hack/postgres.sh url [host]     print its URL for pods, or for this machine
#   hack/postgres.sh psql [ARG...]  run a client
. "$(dirname "$0")/devcluster/lib.sh"

# The server's port; the cluster uses the ten ports before it.
: "${DEVCLUSTER_POSTGRES_PORT:=$((DEVCLUSTER_PORT + 10))}"
dir=$STATE/postgres # holds data/, which is the server's own, and the password
role=openworkflow   # owns the database of the same name, and makes others; not a superuser

bin() {
	local found
	found=$(find /usr/lib/postgresql/*/bin -name postgres 2>/dev/null | sort -V | tail -n 1)
	[ -n "$found" ] || die "no Postgres in /usr/lib/postgresql; see hack/require.sh postgres"
	dirname "$found"
}

# confined COMMAND... sets $wrapped to the arguments that run a command as user postgres
# with the data directory mounted at /mnt, in its own mount namespace, because that user may
# not be able to reach the directory at its real path.
confined() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	wrapped=(unshare --mount --propagation private bash -ec '
		mount --bind "$0" /mnt
		cd /mnt
		exec setpriv --reuid=postgres --regid=postgres --init-groups --no-new-privs "$@"
	' "$dir/data" "$@")
}

password() { cat "$dir/password"; }
url() { echo "postgres://$role:$(password)@$1:$DEVCLUSTER_POSTGRES_PORT/$role?sslmode=disable"; }
psql_() { PGPASSWORD=$(password) "$(bin)/psql" -X -h 127.0.0.1 -p "$DEVCLUSTER_POSTGRES_PORT" -U $role "$@"; }

create() {
	local secret
	say "creating Postgres's data directory"
	rm -rf "$dir"
	mkdir -p "$dir/data"
	chmod 755 "$dir"
	chown postgres: "$dir/data"
	chmod 700 "$dir/data"
	secret=$(openssl rand -hex 24)
	(umask 077 && echo "$secret" >"$dir/password.new")

	confined "$bin/initdb" -D /mnt -U postgres -E UTF8 --locale=C.UTF-8 --auth=reject --no-sync
	"${wrapped[@]}" >"$STATE/logs/initdb.log" 2>&1 || die "initdb failed; see $STATE/logs/initdb.log"
	# The superuser never gets a password, so nobody can log in as it.
	confined "$bin/postgres" --single -D /mnt postgres
	"${wrapped[@]}" >>"$STATE/logs/initdb.log" 2>&1 <<-SQL || die "see $STATE/logs/initdb.log"
		CREATE ROLE $role LOGIN CREATEDB CREATEROLE PASSWORD '$secret'
		CREATE DATABASE $role OWNER $role
	SQL
	mv "$dir/password.new" "$dir/password" # start_postgres treats it as created from here on
}

start_postgres() {
	[ "$(id -u)" = 0 ] || die "needs root, to run the server as user postgres"
	ip -4 addr show dev "$BRIDGE" 2>/dev/null | grep -q "$GATEWAY/" ||
		die "the cluster is not up; start it with hack/devcluster/up.sh"
	if alive postgres; then return; fi
	"$here/../require.sh" postgres openssl
	bin=$(bin)
	[ -e "$dir/password" ] || create

	# The networks of nodes and pods may have changed since the last start.
	cat >"$dir/data/pg_hba.conf" <<-HBA
		host all all 127.0.0.1/32 scram-sha-256
		host all all $DEVCLUSTER_NODE_NET.0/24 scram-sha-256
		host all all $DEVCLUSTER_POD_NET.0.0/16 scram-sha-256
	HBA
	confined "$bin/postgres" -D /mnt -p "$DEVCLUSTER_POSTGRES_PORT" \
		-c "listen_addresses=127.0.0.1,$GATEWAY" -c unix_socket_directories= \
		-c max_connections=300 -c shared_buffers=256MB -c cluster_name="devcluster-$NAME"
	CPU_GROUP=$(cpu_group postgres 100)
	start postgres "${wrapped[@]}"
	wait_for 30 Postgres psql_ -c 'SELECT 1'
	say "Postgres is up, for pods at host.$DEVCLUSTER_DOMAIN:$DEVCLUSTER_POSTGRES_PORT"
}

stop_postgres() {
	case ${1:-fast} in
	fast) stop postgres INT ;;
	immediate) stop postgres QUIT ;;
	*) die "unknown way to stop: $1" ;;
	esac
}

verb=${1:-}
shift || true
case $verb in
start) start_postgres ;;
stop) stop_postgres "$@" ;;
restart)
	stop_postgres "$@"
	start_postgres
	;;
url)
	[ -e "$dir/password" ] || die "Postgres was never started"
	if [ "${1:-pods}" = host ]; then url 127.0.0.1; else url "host.$DEVCLUSTER_DOMAIN"; fi
	;;
psql) psql_ "$@" ;;
*) die "usage: hack/postgres.sh start|stop|restart|url|psql" ;;
esac
