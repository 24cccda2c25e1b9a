//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

// The variables that a WorkerPool sets for a Backend with a caSecretRef make the workers of both
// languages check the server's certificate, with a URL that says nothing about encryption.
func TestWorkers_P9_CheckTheServersCertificate(t *testing.T) {
	t.Parallel()
	server := testpg.StartTLS(t)
	l := newEmptyLabAt(t, server.URL())
	if err := l.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.restricted = true // they do not migrate
	trusting := func(ca []byte) []string {
		file := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(file, ca, 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{
			workerenv.SSLMode + "=verify-full", workerenv.SSLRootCert + "=" + file,
			workerenv.PostgresJSMode + "=verify-full", workerenv.NodeCA + "=" + file,
		}
	}
	l.peers, l.env = server.URLFor("localhost", ""), trusting(server.CA)
	client := l.goClientAt(l.url)
	for _, language := range []string{golang, typescript} {
		worker := l.worker(language, "echo")
		if output, failure := client.result(client.start(newRun{workflow: "echo", input: language})); failure != "" {
			t.Errorf("%s: output %s, failure %s", language, output, failure)
		}
		if plain := read[int](l, `SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
			WHERE NOT ssl AND application_name = $1`, map[string]string{golang: "openworkflow-worker", typescript: "postgres.js"}[language]); plain > 0 {
			t.Errorf("%d connections of the worker in %s are not encrypted", plain, language)
		}
		worker.kill()
	}

	// Node.js has no name to check for an address, so only the other language refuses it.
	for _, c := range []struct {
		what, language, url string
		ca                  []byte
	}{
		{"another CA", golang, server.URLFor("localhost", ""), testpg.NewCA(t)},
		{"another CA", typescript, server.URLFor("localhost", ""), testpg.NewCA(t)},
		{"another name", golang, server.URLFor("127.0.0.1", ""), server.CA},
	} {
		command := exec.CommandContext(t.Context(), goworker, "echo")
		if c.language == typescript {
			command = exec.CommandContext(t.Context(), "node", "typescript/peer.mjs", "echo")
		}
		command.Env = append(os.Environ(), "OPENWORKFLOW_POSTGRES_URL="+c.url, "OPENWORKFLOW_NAMESPACE_ID="+namespaceID)
		command.Env = append(command.Env, trusting(c.ca)...)
		if said := startUntilItSays(t, command, "certificate"); !strings.Contains(said, "certificate") {
			t.Errorf("%s, %s: it says %q", c.what, c.language, said)
		}
	}
}

// startUntilItSays starts a program, stops it once its output has the text or it ends, and returns the
// output.
func startUntilItSays(t *testing.T, command *exec.Cmd, wanted string) string {
	t.Helper()
	var said text
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); !strings.Contains(said.String(), wanted) && time.Now().Before(end); {
		select {
		case <-ended:
			return said.String()
		case <-ticker.C:
		}
	}
	_ = command.Process.Kill()
	<-ended
	return said.String()
}

// text collects what is written to it.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}
