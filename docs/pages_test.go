package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	fenced     = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan   = regexp.MustCompile("`[^`\n]+`")
	pageLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
	makeCall   = regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z0-9-]*)")
	makeTarget = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
)

// TestPages_LinksLeadSomewhere: a link to a file of the repository, or to a heading of a page, has a target.
func TestPages_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for path, text := range pages(t) {
		for _, link := range links(text) {
			file, anchor, _ := strings.Cut(link, "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", path, link, err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s: there is no such heading", path, link)
			}
		}
	}
}

// TestPages_TheReadmeLeadsToEach: whoever begins at the README finds every page of docs.
func TestPages_TheReadmeLeadsToEach(t *testing.T) {
	t.Parallel()
	all := pages(t)
	const start = "../README.md"
	found, queue := map[string]bool{start: true}, []string{start}
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		for _, link := range links(all[path]) {
			file, _, _ := strings.Cut(link, "#")
			target := filepath.Join(filepath.Dir(path), file)
			if !found[target] {
				found[target] = true
				queue = append(queue, target)
			}
		}
	}
	for path := range all {
		if strings.HasPrefix(path, "../docs/") && !found[path] {
			t.Errorf("no link leads from the README to %s", path)
		}
	}
}

// TestPages_MakeTargetsExist: commands in code blocks and code spans name targets of the Makefile.
func TestPages_MakeTargetsExist(t *testing.T) {
	t.Parallel()
	var targets []string
	for _, target := range makeTarget.FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		targets = append(targets, target[1])
	}
	for path, text := range pages(t) {
		code := fenced.FindAllString(text, -1)
		code = append(code, codeSpan.FindAllString(fenced.ReplaceAllString(text, ""), -1)...)
		for _, call := range makeCall.FindAllStringSubmatch(strings.Join(code, "\n"), -1) {
			if !slices.Contains(targets, call[1]) {
				t.Errorf("%s: the Makefile has no target %s", path, call[1])
			}
		}
	}
}

// pages are the texts of the Markdown files that people read, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	walk(t, func(path string) {
		if filepath.Ext(path) == ".md" {
			found[path] = read(t, path)
		}
	})
	if len(found) < 10 {
		t.Fatalf("only %d pages were found", len(found))
	}
	return found
}

// links are a page's links to files of the repository and to headings.
func links(text string) []string {
	text = codeSpan.ReplaceAllString(fenced.ReplaceAllString(text, ""), "")
	var found []string
	for _, link := range pageLink.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(link[1], ":") {
			found = append(found, link[1])
		}
	}
	return found
}

// anchors are the names that a page's headings have in links.
func anchors(text string) []string {
	var found []string
	for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(h[1]), "")
		found = append(found, strings.ReplaceAll(strings.TrimSpace(slug), " ", "-"))
	}
	return found
}
