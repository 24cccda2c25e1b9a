package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// as returns the URL of the database for another user.
func (f *fixture) as(user, password string) string {
	f.t.Helper()
	u, err := url.Parse(f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

func TestOpen_P7_SaysWhatIsWrongAndNoPassword(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	const secret = "s3cr3t-p4ss"
	for name, c := range map[string]struct {
		options store.Options
		want    error
	}{
		"empty":                {store.Options{URL: " "}, store.ErrInvalidURL},
		"of another database":  {store.Options{URL: "mysql://root:" + secret + "@db/x"}, store.ErrInvalidURL},
		"a bad port":           {store.Options{URL: "postgres://root:" + secret + "@db:port/x"}, store.ErrInvalidURL},
		"a password unescaped": {store.Options{URL: "postgres://root:" + secret + "%/@db:5432/x"}, store.ErrInvalidURL},
		"not a URL":            {store.Options{URL: "postgres://%zz:" + secret}, store.ErrInvalidURL},
		"nonsense":             {store.Options{URL: secret}, store.ErrInvalidURL},
		"a hostile schema":     {store.Options{URL: f.url, Schema: `x"; DROP TABLE y; --`}, store.ErrInvalidURL},
		"a long schema":        {store.Options{URL: f.url, Schema: strings.Repeat("x", 64)}, store.ErrInvalidURL},
		"a wrong password":     {store.Options{URL: f.as("postgres", secret)}, store.ErrAuthentication},
		"an unknown user":      {store.Options{URL: f.as("nobody", secret)}, store.ErrAuthentication},
		"no such database":     {store.Options{URL: strings.Replace(f.url, u.Path, "/missing", 1)}, store.ErrDatabaseMissing},
		"nobody listens":       {store.Options{URL: "postgres://postgres:" + secret + "@127.0.0.1:1/x"}, store.ErrUnreachable},
		"no such host":         {store.Options{URL: "postgres://postgres:" + secret + "@host.invalid/x"}, store.ErrUnreachable},
		"no such socket":       {store.Options{URL: "host=/nonexistent user=postgres password=" + secret}, store.ErrUnreachable},
		"no TLS there":         {store.Options{URL: strings.Replace(f.url, "sslmode=disable", "sslmode=require", 1)}, store.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.Context(), c.options)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("Open: %v, want %v", err, c.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the password: %v", err)
			}
			for _, other := range []error{store.ErrInvalidURL, store.ErrAuthentication, store.ErrDatabaseMissing, store.ErrUnreachable} {
				if errors.Is(err, other) && !errors.Is(c.want, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
		})
	}
}

func TestServerVersion(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	if v, err := f.ServerVersion(t.Context()); err != nil || v == "" {
		t.Errorf("ServerVersion: %q, %v", v, err)
	}
}

func TestOpen_KeepsToItsConnections(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	s := open(t, store.Options{URL: f.url, MaxConns: 2, ApplicationName: "few"})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 20)
	for range 20 {
		go func() {
			_, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}})
			done <- err
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	// The server's process of a connection that Migrate has closed ends a moment later.
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(time.Minute); f.value(`SELECT count(*) <= 2 FROM pg_stat_activity WHERE application_name = 'few'`) != "true"; <-ticker.C {
		if time.Now().After(end) {
			t.Fatal("more than MaxConns connections")
		}
	}
}

// TestStore_P6_SurvivesARestartOfPostgres: errors during the restart are ErrUnreachable.
// Afterwards the same Store works and its listener is notified.
func TestStore_P6_SurvivesARestartOfPostgres(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testpg.Server){"stop": (*testpg.Server).Stop, "crash": (*testpg.Server).Crash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testpg.Start(t)
			f := &fixture{Store: open(t, store.Options{URL: server.URL()}), t: t, url: server.URL()}
			if err := f.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			wakes := f.listen()
			await(t, wakes, "after connecting")
			l := f.start()
			before := step(l, "before", completed, `1`)
			f.must([]store.StepWrite{before}, nil)

			end(server)
			for range 3 {
				if _, _, err := f.Apply(t.Context(), []store.StepWrite{step(l, "during", completed, `1`)}, nil); !errors.Is(err, store.ErrUnreachable) {
					t.Errorf("Apply while the server is down: %v, want %v", err, store.ErrUnreachable)
				}
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}

			var err error
			for range 50 {
				if err = f.Ping(t.Context()); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatalf("Ping after the restart: %v", err)
			}
			f.must([]store.StepWrite{before, step(l, "after", completed, `1`)}, []store.RunWrite{ending(l, store.RunComplete)})
			await(t, wakes, "after reconnecting")
		})
	}
}

// listen starts a listener that ends with the test.
func (f *fixture) listen() <-chan struct{} { return listen(f.t.Context(), f.Listen) }

func listen(ctx context.Context, with func(context.Context, func()) error) <-chan struct{} {
	wakes := make(chan struct{}, 100)
	go func() {
		_ = with(ctx, func() { wakes <- struct{}{} })
	}()
	return wakes
}

func await(t *testing.T, wakes <-chan struct{}, when string) {
	t.Helper()
	select {
	case <-wakes:
	case <-time.After(time.Minute):
		t.Fatalf("no wake %s", when)
	}
}

func TestListen_HearsItsNamespaceOnly(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	long := strings.Repeat("long", 40)
	a := &fixture{Store: open(t, store.Options{URL: f.url, NamespaceID: long + "a"}), t: t}
	b := &fixture{Store: open(t, store.Options{URL: f.url, NamespaceID: long + "b"}), t: t}
	toA, toB := a.listen(), b.listen()
	await(t, toA, "after connecting")
	await(t, toB, "after connecting")

	for i := range 3 {
		if err := a.Notify(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, toA, fmt.Sprint("by notification ", i))
	}
	if err := b.Notify(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, toB, "by its own notification")
	if len(toA) != 0 || len(toB) != 0 {
		t.Errorf("%d and %d wakes too many", len(toA), len(toB))
	}
}

func TestListenEnds_HearsOfEndsOnly(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	due, ends := f.listen(), listen(t.Context(), f.ListenEnds)
	await(t, due, "after connecting")
	await(t, ends, "after connecting")

	if err := f.NotifyEnds(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, ends, "by a hint at ends")
	if err := f.Notify(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, due, "by a hint at due runs")
	if len(due) != 0 || len(ends) != 0 {
		t.Errorf("%d and %d wakes too many", len(due), len(ends))
	}
}
