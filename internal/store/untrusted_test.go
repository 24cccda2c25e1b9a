package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodURL = "postgres://shop:s3cr3t@db.example.test:5432/shop"

func TestParse_P9_UntrustedURLCannotTouchTheProcess(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("[x]\nhost=evil.example.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		url string
		// want is a part of the error, empty for a URL that is accepted.
		want string
	}{
		"plain":                 {goodURL, ""},
		"as managed ones":       {goodURL + "?sslmode=require&channel_binding=require&connect_timeout=5&application_name=x", ""},
		"several hosts":         {"postgres://u:p@a.test:1,b.test:2/db?target_session_attrs=read-write", ""},
		"verified by system":    {goodURL + "?sslmode=verify-full&sslrootcert=system", ""},
		"an escaped question":   {"postgres://u:p%3Fq@db.test/db", ""},
		"a question":            {"postgres://u:p?q@db.test/db", ""},
		"the pool's check":      {goodURL + "?pool_health_check_period=0s", `parameter "pool_health_check_period": the manager sets`},
		"the pool's size":       {goodURL + "?pool_max_conns=100000", `parameter "pool_max_conns"`},
		"an escaped name":       {goodURL + "?pool%5Fmin%5Fconns=1000", `parameter "pool_min_conns"`},
		"after a good one":      {goodURL + "?sslmode=disable&options=-c%20role%3Dx", `parameter "options": the manager sets what its sessions need`},
		"a service":             {goodURL + "?service=x&servicefile=" + file, `parameter "service": it names a file`},
		"a password file":       {goodURL + "?passfile=" + file, `parameter "passfile"`},
		"a root certificate":    {goodURL + "?sslrootcert=" + file, `parameter "sslrootcert": it names a file`},
		"a key":                 {goodURL + "?sslkey=" + file, `parameter "sslkey"`},
		"a path":                {goodURL + "?search_path=x", `parameter "search_path"`},
		"an unknown one":        {goodURL + "?s3cr3t=x", "it has a parameter that is not allowed"},
		"a password in between": {"postgres://shop?s3cr3t@db.example.test/shop", "the user's name has a question mark"},
		"keywords and values":   {"host=db.test user=u password=s3cr3t", "it must start with postgres://"},
		"no host":               {"postgres:///db", "it names no host"},
		"a socket":              {"postgres://u:s3cr3t@%2Fvar%2Frun/db", "a socket in the file system"},
		"too many hosts":        {"postgres://u:s3cr3t@" + strings.Repeat("a,", 20) + "b/db", "too many hosts"},
		"too long":              {goodURL + "?application_name=" + strings.Repeat("x", maxURL), "the limit is"},
		"a NUL":                 {goodURL + "?application_name=\x00user", "want postgres://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := parse(Options{URL: test.url, Untrusted: true, MaxConns: 10, ApplicationName: "openworkflow-manager"}, &violation{})
			switch {
			case test.want == "" && err != nil:
				t.Fatalf("error is %v", err)
			case test.want != "" && (!errors.Is(err, ErrInvalidURL) || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("error is %v, want %q", err, test.want)
			case err != nil && (strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "example.test")):
				t.Fatalf("the error quotes the URL: %v", err)
			case err == nil && config.MaxConns != 10:
				t.Errorf("the pool has %d connections", config.MaxConns)
			}
		})
	}
}

// No variable of the process's environment stands for a part of a URL.
func TestDropEnvironment_P9_LeavesNoPostgresVariable(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE",
		"PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGOPTIONS", "PGTZ", "PGTARGETSESSIONATTRS", "PGREQUIREAUTH", "PGCHANNELBINDING"} {
		t.Setenv(name, "/nonexistent")
	}
	DropEnvironment()
	config, err := parse(Options{URL: "postgres://u:p@db.test", Untrusted: true}, &violation{})
	if err != nil {
		t.Fatal(err)
	}
	if c := config.ConnConfig; c.Host != "db.test" || c.Port != 5432 || c.Password != "p" || len(c.RuntimeParams) != 0 {
		t.Errorf("host %s, port %d, parameters %v", c.Host, c.Port, c.RuntimeParams)
	}
}
