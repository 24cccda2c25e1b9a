//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// urlAttacks are Backends whose URL means harm.
var urlAttacks = []attack{
	{"urls/parameters", tryParameters},
	{"urls/own-host", tryOwnHost},
	{"urls/other-servers", tryOtherServers},
	{"urls/spelling", trySpelling},
	{"urls/schemas-of-others", trySchemasOfOthers},
}

// urlCase is a URL and what the Backend says about it.
type urlCase struct {
	url     string
	reasons []string
	message string // a part of it
}

// urls makes a Backend for each URL, and asserts what it says, which includes no password.
func (a *attacker) urls(cases []urlCase) {
	a.Helper()
	backends := make([]*unstructured.Unstructured, len(cases))
	for i, c := range cases {
		name := fmt.Sprintf("url-%s-%d", suffix(a.T), i)
		a.must(a.createSecret(name, c.url))
		backends[i] = a.newBackend(name, name, a.login)
		a.must(a.create(backends[i]))
	}
	for i, c := range cases {
		message := a.awaitReason(time.Minute, backends[i], c.reasons...)
		if !strings.Contains(message, c.message) {
			a.Errorf("URL %.200s: %.500s; want %q", c.url, message, c.message)
		}
		if strings.Contains(message, "secret-") || strings.Contains(message, "hunter2") {
			a.Errorf("URL %.200s: the message has the password: %s", c.url, message)
		}
	}
	for _, b := range backends {
		a.must(a.admin.Delete(a.Context(), b))
	}
}

// Parameters that are the manager's, or that name files of it, are refused by name.
func tryParameters(a *attacker) {
	var cases []urlCase
	for _, parameter := range []string{
		"pool_health_check_period=0s", "pool_min_conns=1000", "pool_max_conns=100000", "pool_max_conn_lifetime=1ns",
		"statement_cache_capacity=100000000", "sslrootcert=/etc/passwd", "sslrootcert=/var/run/secrets/kubernetes.io/serviceaccount/token",
		"sslcert=/etc/passwd", "sslkey=/etc/passwd", "passfile=/etc/passwd", "service=x", "servicefile=/etc/passwd",
		"options=-c%20role=postgres", "search_path=" + a.scene.honest.login, "role=postgres", "timezone=x", "replication=database",
		"PGOPTIONS=x", "hunter2=x",
	} {
		want := "parameter"
		if name, _, _ := strings.Cut(parameter, "="); name != "PGOPTIONS" && name != "hunter2" {
			want = fmt.Sprintf("parameter %q", name)
		}
		cases = append(cases, urlCase{a.url + "&" + parameter, []string{v1alpha1.ReasonInvalidURL}, want})
	}
	a.urls(cases)
}

// The manager does not connect to its own host, nor to the metadata service of a cloud.
func tryOwnHost(a *attacker) {
	var cases []urlCase
	for _, host := range []string{
		"127.0.0.1:8081", "127.0.0.1:6060", "localhost:8081", "[::1]:8081", "0.0.0.0:8081", "[::]:8081", "[::ffff:127.0.0.1]:8081", "127.1.2.3:1",
		"169.254.169.254:80", "[fe80::1]:80", "224.0.0.1:80",
	} {
		cases = append(cases, urlCase{"postgres://x:hunter2@" + host + "/x", []string{v1alpha1.ReasonAddressDenied}, "does not connect to the address"})
	}
	a.urls(append(cases, urlCase{"postgres://x:hunter2@/x?host=/var/run", []string{v1alpha1.ReasonInvalidURL}, "socket in the file system"}))
}

// What is not Postgres learns nothing and tells nothing, and what hangs does not hold up others.
func tryOtherServers(a *attacker) {
	hanging, err := (&net.ListenConfig{}).Listen(a.Context(), "tcp", a.scene.host+":0") // nobody accepts
	if err != nil {
		a.Fatal(err)
	}
	defer func() { _ = hanging.Close() }()
	manager := a.scene.manager.runningPod()
	apiServer := a.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
	unreachable := []string{v1alpha1.ReasonUnreachable, v1alpha1.ReasonTLSFailed, v1alpha1.ReasonUnexpectedAnswer}
	var cases []urlCase
	for range 3 {
		for _, host := range []string{
			hanging.Addr().String(), strings.TrimPrefix(apiServer, "https://"), "kubernetes.default.svc:443",
			manager.Status.PodIP + ":8443", manager.Status.PodIP + ":8081", a.scene.host[:strings.LastIndex(a.scene.host, ".")] + ".254:5432",
			"no-such-name.invalid:5432", "2130706433:8081",
		} {
			cases = append(cases, urlCase{"postgres://x:hunter2@" + host + "/x?connect_timeout=600", unreachable, ""})
		}
	}
	a.urls(cases)
}

// Whatever is wrong with a URL, the condition does not repeat it.
func trySpelling(a *attacker) {
	var hosts []string
	for i := range 1000 {
		hosts = append(hosts, fmt.Sprintf("10.255.0.%d:%d", i%250, 1000+i))
	}
	invalid := []string{v1alpha1.ReasonInvalidURL}
	a.urls([]urlCase{
		{"postgres://name?hunter2@host/db", invalid, ""},
		{"postgres://name:hunter2@host:port/db", invalid, ""},
		{"postgres://name:hunt%er2@host/db", invalid, ""},
		{"host=x password=hunter2", invalid, "must start with postgres://"},
		{"mysql://x:hunter2@host/db", invalid, "must start with postgres://"},
		{"postgres://x:hunter2@" + strings.Join(hosts, ",") + "/db", invalid, "limit"},
		{"postgres://x:hunter2@host/" + strings.Repeat("x", 900_000), invalid, "the limit is"},
		{"\x00\x01postgres://hunter2", invalid, ""},
	})
}

// A login reaches its own schemas only: tables of another tenant are out of its reach.
func trySchemasOfOthers(a *attacker) {
	for i, schema := range []string{a.scene.honest.login, "pg_catalog", "information_schema", "public", "new_schema"} {
		b := a.newBackend(fmt.Sprintf("schema-%d", i), "db", schema)
		a.must(a.create(b))
		// Other cases of the tenant hold the locks that its migrations wait for.
		a.awaitReason(time.Minute, b, v1alpha1.ReasonInsufficientPrivilege, v1alpha1.ReasonMigrating)
	}
	for _, statement := range []string{
		"SELECT * FROM %s.workflow_runs", "UPDATE %s.workflow_runs SET status = 'canceled'", "DELETE FROM %s.step_attempts",
		"CREATE TABLE %s.t (a int)", "DROP SCHEMA %s CASCADE", "ALTER ROLE %s NOLOGIN", "SET ROLE %s",
	} {
		_, err := a.database.Exec(a.Context(), fmt.Sprintf(statement, a.scene.honest.login))
		a.refused(statement, err, "SQLSTATE 42501") // insufficient privilege
	}
	a.mustSay(a.newBackend("default", "db", a.login), v1alpha1.ReasonConnected)
}

// awaitNotReady waits until a Backend says that it cannot be used.
func (a *attacker) awaitNotReady(within time.Duration, b *unstructured.Unstructured) (reason, message string) {
	a.Helper()
	a.await(within, "Backend "+b.GetName()+" to be not ready", func() bool {
		reason, message = a.ready(b)
		return reason != "" && reason != v1alpha1.ReasonNotObserved && reason != v1alpha1.ReasonConnected
	})
	return reason, message
}
