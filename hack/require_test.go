// Package hack_test tests scripts of this directory: those that change the machine, and what a
// release refuses. Its tests are not parallel: a program that was just written cannot run while
// another test forks.
package hack_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a directory of programs, the only ones that a script finds.
type machine struct {
	programs string
	// log has a line for each call of apt-get.
	log string
}

// newMachine has a user and an apt-get that succeeds unless told otherwise.
func newMachine(t *testing.T, uid string) machine {
	t.Helper()
	dir := t.TempDir()
	m := machine{programs: filepath.Join(dir, "bin"), log: filepath.Join(dir, "apt.log")}
	if err := os.Mkdir(m.programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bash", "mktemp", "rm", "tail"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(m.programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.program(t, "id", "echo "+uid)
	m.aptGet(t, "")
	return m
}

func (m machine) program(t *testing.T, name, body string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.programs, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (m machine) aptGet(t *testing.T, then string) {
	t.Helper()
	m.program(t, "apt-get", `echo "$*" >>`+m.log+"\n"+then)
}

// require runs require.sh and returns its exit code and what it printed.
func (m machine) require(t *testing.T, environment []string, things ...string) (code int, printed string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "bash", append([]string{"require.sh"}, things...)...)
	command.Env = append([]string{"PATH=" + m.programs}, environment...)
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), string(out)
}

// calls returns the calls of apt-get.
func (m machine) calls(t *testing.T) string {
	t.Helper()
	calls, err := os.ReadFile(m.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(calls)
}

func TestRequire(t *testing.T) {
	const byHand = "apt-get install -y --no-install-recommends nodejs npm shellcheck"
	const install = "install -y --no-install-recommends nodejs npm shellcheck\n"
	missing := []string{"nodejs", "shellcheck"}
	for name, test := range map[string]struct {
		uid         string
		environment []string
		things      []string
		aptGet      string
		code        int
		calls       string
		prints      []string
	}{
		"installs what is missing and says so": {
			uid: "0", things: missing, calls: install,
			prints: []string{"nodejs ", "runs OpenWorkflow's own package", "checks the scripts", byHand, "NO_INSTALL=1"},
		},
		"updates the lists of packages when they are old": {
			uid: "0", things: missing, calls: install + "update\n" + install,
			aptGet: `[ "$1" = update ] && >` + "$0.updated; [ -e $0.updated ]",
		},
		"fails with the command when apt-get fails": {
			uid: "0", things: missing, aptGet: "echo no network; exit 1", code: 1, calls: install + "update\n",
			prints: []string{"no network", byHand},
		},
		"installs nothing with NO_INSTALL": {
			uid: "0", environment: []string{"NO_INSTALL=1"}, things: missing, code: 1, prints: []string{byHand},
		},
		"installs nothing without root": {uid: "1000", things: missing, code: 1, prints: []string{"needs root", byHand}},
		"refuses what it does not know": {uid: "0", things: []string{"no-such-thing"}, code: 2, prints: []string{"unknown: no-such-thing"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, test.uid)
			m.aptGet(t, test.aptGet)
			code, printed := m.require(t, test.environment, test.things...)
			if code != test.code {
				t.Errorf("exit code is %d, want %d", code, test.code)
			}
			if calls := m.calls(t); calls != test.calls {
				t.Errorf("apt-get was called with\n%swant\n%s", calls, test.calls)
			}
			for _, want := range test.prints {
				if !strings.Contains(printed, want) {
					t.Errorf("it did not print %q:\n%s", want, printed)
				}
			}
		})
	}
}

func TestRequire_DoesNothingWhenNothingIsMissing(t *testing.T) {
	m := newMachine(t, "1000")
	m.program(t, "shellcheck", "")
	code, printed := m.require(t, []string{"NO_INSTALL=1"}, "shellcheck")
	if code != 0 || printed != "" || m.calls(t) != "" {
		t.Errorf("exit code %d, apt-get %q, printed %q", code, m.calls(t), printed)
	}
}
