package store

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// fuzzPassword stands between the two parts of each URL, wherever that is.
const fuzzPassword = "s3cr3t~Zq7"

// FuzzParseURL looks for a URL that makes parse panic, whose password an error quotes, or that
// is accepted although it reads a file, changes the pool or sets a session's parameter.
//
// A dollar sign in a URL becomes the path of a file that holds a password, a certificate and a
// service, and variables of the environment name it as well: what takes effect shows.
func FuzzParseURL(f *testing.F) {
	for _, url := range [][2]string{
		{"postgres://shop:", "@db.example.test:5432/shop?sslmode=require&channel_binding=require&connect_timeout=5"},
		{"postgres://shop:", "@db.example.test/shop?pool_health_check_period=0s"},
		{"postgres://shop:", "@db.example.test/shop?sslmode=verify-full&sslrootcert=$"},
		{"postgres://shop:", "@a:1,b:2/db?sslmode=allow&sslrootcert=system&target_session_attrs=read-write"},
		{"postgres://shop@h/db?passfile=$&application_name=", ""},
		{"postgres://shop@h/db?%73ervice=x&servicefile=$&password=", ""},
		{"postgres://shop@h/db?sslcert=$&sslkey=$&sslpassword=", "&sslcertmode=require"},
		{"postgres://u:", "?q@h/db?options=-c%20role%3Dx"},
		{"postgres://shop?", "@h/db"},
		{"postgresql://u:", "@[::1]:5432/db?ssl=true"},
		{"postgres://u:", "@%2Ftmp/db"},
		{"postgres://%zz", "@h/db"},
		{"postgres://u:", "@h/db?sslmode=disable&&connect_timeout=-1"},
		{"postgres://h/?application_name=", ""},
		{"postgres:///?application_name=", ""},
		{"host=a user=b password=", " passfile=$"},
		{"", ""},
	} {
		f.Add(url[0], url[1])
	}
	file := bait(f)
	DropEnvironment()
	if _, err := parse(Options{URL: goodURL, Untrusted: true}, &violation{}); err != nil {
		f.Fatalf("a good URL is refused: %v", err)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		url := strings.ReplaceAll(before+fuzzPassword+after, "$", file)
		config, err := parse(Options{URL: url, Untrusted: true, MaxConns: 10, ApplicationName: "openworkflow-manager"}, &violation{})
		if err == nil {
			checkHarmless(t, config)
			return
		}
		if !errors.Is(err, ErrInvalidURL) {
			t.Errorf("the error is no ErrInvalidURL: %v", err)
		}
		if strings.Contains(err.Error(), fuzzPassword) || strings.Contains(err.Error(), file) {
			t.Errorf("the error quotes the password or a file: %v", err)
		}
	})
}

// baitPassword is a password that only the file and the environment have.
const baitPassword = "from-the-process"

// bait writes the file of FuzzParseURL and sets the variables that libpq and pgx know.
func bait(f *testing.F) (file string) {
	f.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	file = filepath.Join(f.TempDir(), "bait")
	text := "[x]\nhost=evil.example.test\npassword=" + baitPassword + "\n*:*:*:*:" + baitPassword + "\n" + string(certificate)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"PGPASSFILE", "PGSERVICEFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"} {
		f.Setenv(name, file)
	}
	for name, value := range map[string]string{
		"PGHOST": "evil.example.test", "PGPORT": "1", "PGUSER": "evil", "PGPASSWORD": baitPassword, "PGDATABASE": "evil",
		"PGSERVICE": "x", "PGSSLMODE": "disable", "PGOPTIONS": "-c role=evil", "PGTZ": "evil", "PGAPPNAME": "evil",
		"PGTARGETSESSIONATTRS": "standby", "PGCONNECT_TIMEOUT": "9999", "PGSSLPASSWORD": baitPassword,
		"PGREQUIREAUTH": "none", "PGCHANNELBINDING": "disable", "PGMINPROTOCOLVERSION": "3.2",
	} {
		f.Setenv(name, value)
	}
	return file
}

// checkHarmless checks that an accepted URL has no effect but on the target and the protection
// of the connection to it.
func checkHarmless(t *testing.T, config *pgxpool.Config) {
	t.Helper()
	c := config.ConnConfig
	if config.MaxConns != 10 || config.MinConns != 0 || config.MinIdleConns != 0 || config.HealthCheckPeriod != time.Minute ||
		config.PingTimeout <= 0 || c.ConnectTimeout <= 0 || c.ConnectTimeout > connectTimeout || c.MaxProtocolMessageBodyLen != maxMessage {
		t.Errorf("the URL changes the pool: %+v", config)
	}
	if len(c.RuntimeParams) != 1 || c.RuntimeParams["application_name"] != "openworkflow-manager" {
		t.Errorf("the URL sets parameters of the session: %v", c.RuntimeParams)
	}
	if c.Password == baitPassword || c.User == "evil" || c.Database == "evil" {
		t.Error("the process's environment or a file says who connects")
	}
	system, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
		if network, _ := pgconn.NetworkAddress(host.Host, host.Port); network != "tcp" {
			t.Errorf("the URL names a socket: %q", host.Host)
		}
		if host.Host == "evil.example.test" {
			t.Error("the target is not the URL's")
		}
		if tls := host.TLSConfig; tls != nil && (len(tls.Certificates) > 0 || tls.RootCAs != nil && !tls.RootCAs.Equal(system)) {
			t.Error("the URL reads a certificate")
		}
	}
}
