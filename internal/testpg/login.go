package testpg

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Login creates a login without rights, and returns its name and the URL with which it connects to
// the database. The URL is that of a role that may create roles.
func Login(t testing.TB, database, name string) (login, as string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatalf("parse the test server's URL: %v", err)
	}
	login = name + "_" + strings.TrimPrefix(u.Path, "/")
	u.User = url.UserPassword(login, password)
	run(t, database, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", login, password))
	t.Cleanup(func() { run(t, database, fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", login)) })
	return login, u.String()
}

// Grants returns the statements of a page (docs/security.md) for a login. They begin with a comment
// that says what it is for: "manager", "worker".
func Grants(t testing.TB, page, what, login string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sql\n-- " + what + "\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatalf("%s has no statements for the %s", page, what)
	}
	return strings.ReplaceAll(string(block[1]), "openworkflow_"+what, login)
}
