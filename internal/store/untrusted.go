package store

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// maxURL is the longest untrusted URL. Tokens that stand for a password have a few kilobytes.
	maxURL = 16 << 10
	// maxHosts is the number of hosts in one URL.
	maxHosts = 8
)

// trustedParameters are the parameters that an untrusted URL may have: those that say where the
// database is and how the connection to it is protected.
var trustedParameters = []string{
	"host", "port", "user", "password", "dbname", "database",
	"sslmode", "ssl", "sslrootcert", "sslsni", "sslnegotiation", "channel_binding", "require_auth",
	"connect_timeout", "target_session_attrs", "application_name", "default_query_exec_mode",
}

const (
	refusedFile    = "it names a file of the manager, which a URL must not read; remove it"
	refusedPool    = "the manager sets the numbers of its pool itself; remove it"
	refusedSession = "the manager sets what its sessions need; set it for the role with ALTER ROLE … SET, or remove it"
)

// refusedParameters says what to do about a known parameter that is not among
// trustedParameters. An error names no other one: a mistyped URL may have its password there.
var refusedParameters = map[string]string{
	"passfile": refusedFile, "service": refusedFile, "servicefile": refusedFile, "sslcert": refusedFile,
	"sslkey": refusedFile, "sslpassword": refusedFile, "sslcertmode": refusedFile, "sslcrl": refusedFile, "sslcrldir": refusedFile,
	"krbspn": refusedFile, "krbsrvname": refusedFile, "gssencmode": refusedFile, "gsslib": refusedFile,

	"pool_max_conns": refusedPool, "pool_min_conns": refusedPool, "pool_min_idle_conns": refusedPool,
	"pool_max_conn_lifetime": refusedPool, "pool_max_conn_lifetime_jitter": refusedPool, "pool_max_conn_idle_time": refusedPool,
	"pool_health_check_period": refusedPool, "pool_ping_timeout": refusedPool,
	"statement_cache_capacity": refusedPool, "description_cache_capacity": refusedPool,

	"options": refusedSession, "search_path": refusedSession, "timezone": refusedSession, "statement_timeout": refusedSession,
	"lock_timeout": refusedSession, "idle_in_transaction_session_timeout": refusedSession, "client_encoding": refusedSession,
	"datestyle": refusedSession, "role": refusedSession, "replication": refusedSession, "keepalives": refusedSession,
	"keepalives_idle": refusedSession, "keepalives_interval": refusedSession, "keepalives_count": refusedSession,
	"tcp_user_timeout": refusedSession, "fallback_application_name": refusedSession, "min_protocol_version": refusedSession,
	"max_protocol_version": refusedSession, "load_balance_hosts": refusedSession, "pgbouncer": refusedSession,
}

// DropEnvironment removes the variables from the process's environment that stand for a
// missing part of a URL (PGHOST, PGSERVICE, PGPASSFILE …). A process that serves databases of
// others calls it before the first Open.
func DropEnvironment() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name) // it fails only for a name that no variable can have
		}
	}
}

// parseUntrusted is parse for a URL that somebody else wrote, of a server that somebody else
// runs. The URL can neither name a file nor change the pool, and the server can make the
// process neither keep nor wait for more than the limits say.
func parseUntrusted(o Options, seen *violation) (*pgxpool.Config, error) {
	raw := strings.TrimSpace(o.URL)
	if len(raw) > maxURL {
		return nil, fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrInvalidURL, len(raw), maxURL)
	}
	base, query, err := splitURL(raw)
	if err != nil {
		return nil, err
	}
	if err := checkParameters(query); err != nil {
		return nil, err
	}
	mode, err := o.Encryption.ModeOf(raw)
	if err != nil {
		return nil, err
	}
	// The list that pgx checks is the same one: what this package failed to see, it refuses.
	if _, err := pgx.ParseConfigWithOptions(raw, pgx.ParseConfigOptions{
		ParseConfigOptions: pgconn.ParseConfigOptions{ConnStringAllowedKeys: trustedParameters},
	}); err != nil {
		return nil, errMalformedURL()
	}
	// By default the files of the home directory are read. Of two values the last one counts.
	files := "passfile=&sslcert=&sslkey=&sslcertmode=disable&sslrootcert="
	if query != "" {
		files += "&" + query
	}
	if mode != "" {
		files += "&sslmode=" + url.QueryEscape(mode)
	}
	config, err := pgxpool.ParseConfig(base + "?" + files)
	if err != nil {
		return nil, errMalformedURL()
	}
	if err := checkTarget(config.ConnConfig); err != nil {
		return nil, err
	}
	if err := o.Encryption.trust(&config.ConnConfig.Config); err != nil {
		return nil, err
	}
	limit(config, o.Dial, seen)
	return config, nil
}

// errMalformedURL returns the error of a URL that pgx cannot read. Its own quotes the URL.
func errMalformedURL() error {
	return fmt.Errorf("%w: want postgres://user:password@host:port/database?sslmode=…, "+
		"with special characters in the password percent-encoded", ErrInvalidURL)
}

// splitURL cuts a URL before its parameters, where pgx does: a question mark before the @ is
// part of the user or the password.
func splitURL(raw string) (base, query string, err error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme != "postgres" && scheme != "postgresql" {
		return "", "", fmt.Errorf("%w: it must start with postgres:// or postgresql://", ErrInvalidURL)
	}
	authority := 0
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		authority = i
	}
	i := strings.IndexByte(rest[authority:], '?')
	if i < 0 {
		return raw, "", nil
	}
	return scheme + "://" + rest[:authority+i], rest[authority+i+1:], nil
}

// checkParameters refuses parameters that are not among trustedParameters.
func checkParameters(query string) error {
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		rawName, value, _ := strings.Cut(pair, "=")
		name, err := url.PathUnescape(strings.Trim(rawName, " "))
		if err != nil {
			return errMalformedURL()
		}
		if name == "sslrootcert" && value != "system" && value != "" {
			return fmt.Errorf("%w: parameter %q: %s, or set it to system", ErrInvalidURL, name, refusedFile)
		}
		if isTrusted(name) {
			continue
		}
		if why, ok := refusedParameters[strings.ToLower(name)]; ok {
			return fmt.Errorf("%w: parameter %q: %s", ErrInvalidURL, strings.ToLower(name), why)
		}
		return fmt.Errorf("%w: it has a parameter that is not allowed; allowed are %s; "+
			"if it is part of the password, percent-encode the question mark as %%3F", ErrInvalidURL, strings.Join(trustedParameters, ", "))
	}
	return nil
}

func isTrusted(name string) bool {
	return slices.Contains(trustedParameters, name)
}

// checkTarget refuses a host from this process's file system, and a user's name that is
// probably the name and the password of a mistyped URL: errors of pgx quote the name.
func checkTarget(config *pgx.ConnConfig) error {
	if strings.Contains(config.User, "?") {
		return fmt.Errorf("%w: the user's name has a question mark: separate the password by a colon", ErrInvalidURL)
	}
	hosts := []string{config.Host}
	for _, f := range config.Fallbacks {
		hosts = append(hosts, f.Host)
	}
	if len(hosts) > 2*maxHosts { // with and without TLS
		return fmt.Errorf("%w: it has too many hosts, the limit is %d", ErrInvalidURL, maxHosts)
	}
	for _, host := range hosts {
		if network, _ := pgconn.NetworkAddress(host, config.Port); network != "tcp" {
			return fmt.Errorf("%w: it names no host, or a socket in the file system: name the host of the database", ErrInvalidURL)
		}
	}
	return nil
}

// limit sets all that the URL does not say about the target, and bounds what the server
// can make this process keep.
func limit(config *pgxpool.Config, dial pgconn.DialFunc, seen *violation) {
	config.MinConns, config.MinIdleConns, config.MaxConnLifetimeJitter = 0, 0, time.Minute
	config.MaxConnLifetime, config.MaxConnIdleTime = time.Hour, 5*time.Minute
	config.HealthCheckPeriod, config.PingTimeout = time.Minute, connectTimeout
	conn := config.ConnConfig
	conn.RuntimeParams = map[string]string{}
	if conn.ConnectTimeout <= 0 || conn.ConnectTimeout > connectTimeout {
		conn.ConnectTimeout = connectTimeout
	}
	limitAnswers(&conn.Config, dial, seen)
}
