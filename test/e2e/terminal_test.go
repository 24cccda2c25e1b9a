//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The size of a terminal.
const terminalColumns, terminalLines = 170, 40

// terminal is a terminal in which a program runs: a session of a tmux server of its own.
type terminal struct {
	*testing.T
	socket string
}

// newTerminal starts a program in a terminal.
func newTerminal(t *testing.T, env []string, program string, args ...string) *terminal {
	t.Helper()
	term := &terminal{T: t, socket: filepath.Join(t.TempDir(), "tmux")}
	command := append([]string{"-f", os.DevNull, "new-session", "-d", "-x", fmt.Sprint(terminalColumns), "-y", fmt.Sprint(terminalLines), "env", "TERM=screen-256color"}, env...)
	term.tmux(append(append(command, program), args...)...)
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", term.socket, "kill-server").Run() //nolint:noctx // the test's context has ended
	})
	return term
}

func (t *terminal) tmux(args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "tmux", append([]string{"-S", t.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// screen returns what the terminal shows, without the spaces at the ends of lines.
func (t *terminal) screen() string {
	t.Helper()
	return regexp.MustCompile(` +\n`).ReplaceAllString(t.tmux("capture-pane", "-p"), "\n")
}

// types sends a text, letter by letter.
func (t *terminal) types(text string) { t.Helper(); t.tmux("send-keys", "-l", text) }

// presses sends keys by their names, such as Enter.
func (t *terminal) presses(keys ...string) {
	t.Helper()
	t.tmux(append([]string{"send-keys"}, keys...)...)
}

// shows waits until the terminal shows all texts, and returns what it shows.
func (t *terminal) shows(texts ...string) string {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(time.Minute); ; <-ticker.C {
		screen, missing := t.screen(), ""
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				missing = text
				break
			}
		}
		if missing == "" {
			return screen
		}
		if time.Now().After(end) {
			t.Fatalf("the terminal does not show %q:\n%s", missing, screen)
		}
	}
}
