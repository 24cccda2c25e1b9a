// Package docs_test keeps the documentation true to the code.
package docs_test

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const rulesPage = "openworkflow-rules.md"

// knownRules are all rules, with letters for those that have parts.
const knownRules = `R1-R9 R20-R27 R30-R34 R40-R48 R50-R62 R70-R97 R98a-R98e R99a-R99d R100-R101 R104-R108 R110
	R120-R122 R125-R127 R130-R133 R140 R143-R144 R150 R160-R161 R165-R168 R170-R180 Q1-Q14`

func TestRulesPageHasEveryRuleOnceAndInOrder(t *testing.T) {
	t.Parallel()
	var got []string
	for _, r := range readRules(t) {
		got = append(got, r.number)
	}
	want := expand(t, knownRules)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("rule number %d of the page differs: the page goes on with %v, the list with %v",
				i+1, head(got[min(i, len(got)):]), head(want[min(i, len(want)):]))
		}
	}
}

func TestEveryRuleHasAVerdict(t *testing.T) {
	t.Parallel()
	for _, r := range readRules(t) {
		switch r.verdict {
		case "Implemented":
			if len(r.tests) == 0 && !strings.HasPrefix(r.number, "Q") {
				t.Errorf("%s is implemented, but no test is named that holds it", r.number)
			}
		case "Different", "Not applicable":
			if len(r.reason) < len("It is so here.") {
				t.Errorf("%s: %s, but it does not say why: %q", r.number, r.verdict, r.reason)
			}
		default:
			t.Errorf("%s has no verdict; after its text comes a line such as \"> **Implemented.** `store.TestX`.\"", r.number)
		}
	}
}

func TestTestsThatRulesNameExist(t *testing.T) {
	t.Parallel()
	exist := testsOfTheModule(t)
	for _, r := range readRules(t) {
		for _, name := range r.tests {
			if !exist[name] {
				t.Errorf("%s names %s, which does not exist", r.number, name)
			}
		}
	}
}

func TestCitedRulesAreOnThePage(t *testing.T) {
	t.Parallel()
	onPage := map[string]bool{}
	for _, r := range readRules(t) {
		onPage[r.number] = true
		onPage[strings.TrimRight(r.number, "abcde")] = true // R98 stands for all its parts
	}
	cited := regexp.MustCompile(`\bR\d{1,3}[a-e]?\b`)
	walk(t, func(path string) {
		if filepath.Base(path) == rulesPage {
			return
		}
		for _, text := range comments(t, path) {
			for _, number := range cited.FindAllString(text, -1) {
				if !onPage[number] {
					t.Errorf("%s cites %s, which %s does not have", path, number, rulesPage)
				}
			}
		}
	})
}

// rule is a rule of the page.
type rule struct {
	number, verdict, reason string
	tests                   []string
}

var (
	ruleStart = regexp.MustCompile(`(?m)^\*\*([RQ]\d+[a-e]?)\*\* `)
	// A verdict is a quotation that begins with one of three words.
	verdictText = regexp.MustCompile(`(?ms)^> \*\*(Implemented|Different|Not applicable)\.\*\* (.*?)\n(?:[^>]|\z)`)
	testName    = regexp.MustCompile("`([a-z0-9]+\\.(?:Test|Example|Fuzz)\\w*)`")
)

func readRules(t *testing.T) []rule {
	t.Helper()
	page, err := os.ReadFile(rulesPage)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	starts := ruleStart.FindAllStringSubmatchIndex(text, -1)
	var rules []rule
	for i, start := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		body := text[start[1]:end]
		if heading := strings.Index(body, "\n## "); heading >= 0 {
			body = body[:heading]
		}
		r := rule{number: text[start[2]:start[3]]}
		verdicts := verdictText.FindAllStringSubmatch(body+"\n", -1)
		if len(verdicts) > 1 {
			t.Errorf("%s has %d verdicts", r.number, len(verdicts))
		}
		for _, v := range verdicts {
			r.verdict, r.reason = v[1], v[2]
		}
		for _, name := range testName.FindAllStringSubmatch(r.reason, -1) {
			r.tests = append(r.tests, name[1])
		}
		rules = append(rules, r)
	}
	return rules
}

// expand spells out ranges of rules.
func expand(t *testing.T, list string) []string {
	t.Helper()
	var all []string
	for entry := range strings.FieldsSeq(list) {
		first, last, isRange := strings.Cut(entry, "-")
		switch {
		case !isRange:
			all = append(all, first)
		case strings.ContainsAny(first, "abcde"):
			for letter := first[len(first)-1]; letter <= last[len(last)-1]; letter++ {
				all = append(all, first[:len(first)-1]+string(letter))
			}
		default:
			from, errFrom := strconv.Atoi(first[1:])
			to, errTo := strconv.Atoi(last[1:])
			if errFrom != nil || errTo != nil {
				t.Fatalf("%s is not a range", entry)
			}
			for n := from; n <= to; n++ {
				all = append(all, first[:1]+strconv.Itoa(n))
			}
		}
	}
	return all
}

func head(list []string) []string { return list[:min(len(list), 3)] }

// testsOfTheModule returns the tests in the source tree, by package and name.
func testsOfTheModule(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Example|Fuzz)\w*)\(`)
	tests := map[string]bool{}
	walk(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, match := range function.FindAllStringSubmatch(read(t, path), -1) {
			tests[filepath.Base(filepath.Dir(path))+"."+match[1]] = true
		}
	})
	return tests
}

// walk calls f for the files of the module, without tools, dependencies and generated
// directories.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	leftOut := []string{"node_modules", "hack", "bin", "dist", "testdata", "vendor"}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains(leftOut, entry.Name())):
			return fs.SkipDir
		case entry.Type().IsRegular():
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// comments returns the text of a file: the comments of a program, the whole of a document.
func comments(t *testing.T, path string) []string {
	t.Helper()
	switch filepath.Ext(path) {
	case ".md":
		return []string{read(t, path)}
	case ".go":
		return goComments(t, path)
	case ".ts", ".mts", ".js", ".mjs":
		return regexp.MustCompile(`(?s)//[^\n]*|/\*.*?\*/`).FindAllString(read(t, path), -1)
	default:
		return nil
	}
}

func goComments(t *testing.T, path string) []string {
	t.Helper()
	source := []byte(read(t, path))
	files := token.NewFileSet()
	var s scanner.Scanner
	s.Init(files.AddFile(path, -1, len(source)), source, nil, scanner.ScanComments)
	var found []string
	for {
		_, tok, text := s.Scan()
		if tok == token.EOF {
			return found
		}
		if tok == token.COMMENT {
			found = append(found, text)
		}
	}
}
