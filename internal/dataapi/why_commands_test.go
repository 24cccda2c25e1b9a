package dataapi

import (
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// What an answer tells a user to type is what a shell reads as it is shown: ids of runs and names of steps
// are other people's input.
func TestWhy_P9_CommandsHoldNoHostileText(t *testing.T) {
	t.Parallel()
	const begin = "kubectl workflow inbox shows what is asked; approve or deny it by kubectl workflow approve "
	for name, test := range map[string]struct{ run, step, want string }{
		"plain":                 {"r-1", "release/eu_1.2", "run/r-1 --step release/eu_1.2"},
		"a substitution":        {"r-1", "$(reboot)", "run/r-1"},
		"backticks":             {"r-1", "`reboot`", "run/r-1"},
		"a quote":               {"r-1", `x"; reboot; "`, "run/r-1"},
		"a single quote":        {"r-1", "x'", "run/r-1"},
		"a variable":            {"r-1", "${IFS}", "run/r-1"},
		"a history expansion":   {"r-1", "!!", "run/r-1"},
		"a space":               {"r-1", "release now", "run/r-1"},
		"a line":                {"r-1", "x\nreboot", "run/r-1"},
		"another flag":          {"r-1", "--kubeconfig", "run/r-1"},
		"letters of a language": {"r-1", "größe", "run/r-1"},
		"no name":               {"r-1", "", "run/r-1"},
		"a long name":           {"r-1", strings.Repeat("s", maxWhyName+1), "run/r-1"},
		"an id of a command":    {"x;reboot", "release", "RUN --step release"},
		"an id of another line": {"x\nreboot", "release", "RUN --step release"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := whyRun(openworkflow.RunRunning, waits(openworkflow.KindSignalWait, test.step, `{"kind":"signal-wait","signal":"openworkflow.dev/approval:r-1:s"}`))
			seen.Run.ID = test.run
			if got := explainRun(seen).next; got != begin+test.want {
				t.Errorf("next is %q, want %q", got, begin+test.want)
			}
		})
	}
}
