package hack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot be released is refused before anything is built.
func TestRelease_P7_RefusesWhatNobodyCanInstallOrRepeat(t *testing.T) {
	const url = "BASE_URL=https://example.com"
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"no version":       {[]string{"VERSION=", url}, "name the release, as in VERSION=v1.2.3"},
		"no URL":           {[]string{"VERSION=v1.2.3", "BASE_URL="}, "say where the files will be"},
		"no leading v":     {[]string{"VERSION=1.2.3", url}, "VERSION=1.2.3: give a semantic version with a leading v"},
		"two numbers":      {[]string{"VERSION=v1.2", url}, "VERSION=v1.2: give a semantic version"},
		"text behind":      {[]string{"VERSION=v1.2.3;id", url}, "VERSION=v1.2.3;id: give a semantic version"},
		"unknown platform": {[]string{"VERSION=v1.2.3", url, "PLATFORMS=linux/amd64 linux-arm64"}, "linux-arm64 is none of linux/amd64 linux/arm64"},
		"not as committed": {[]string{"VERSION=v1.2.3-rc.1", url}, "the work tree differs from the commit"},
	} {
		t.Run(name, func(t *testing.T) {
			checkout := t.TempDir()
			script, err := os.ReadFile("release.sh")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(checkout, "hack"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(checkout, "hack/release.sh"), script, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", checkout).CombinedOutput(); err != nil {
				t.Fatalf("git init: %v\n%s", err, out)
			}
			command := exec.CommandContext(t.Context(), "bash", filepath.Join(checkout, "hack/release.sh"))
			command.Env = append(os.Environ(), test.env...)
			out, err := command.CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) {
				t.Errorf("%v: %s, want %q", err, out, test.want)
			}
			if _, err := os.Stat(filepath.Join(checkout, "dist")); !os.IsNotExist(err) {
				t.Errorf("files were made: %v", err)
			}
		})
	}
}
