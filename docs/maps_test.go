package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mustHaveMaps are the packages that are too large to be read without a map.
var mustHaveMaps = []string{"internal/controller", "internal/runner"}

// A package comment has a map when one of its indented lines starts with a file's name.
var (
	mapEntry = regexp.MustCompile(`(?m)^\t[a-z0-9_]+\.go\b`)
	fileName = regexp.MustCompile(`\b[a-z0-9_]+\.go\b`)
)

func TestMapsOfPackagesNameEveryFile(t *testing.T) {
	t.Parallel()
	packages := sourcesByPackage(t)
	for _, name := range mustHaveMaps {
		if p := packages[name]; p == nil || !mapEntry.MatchString(p.comment) {
			t.Errorf("the comment of package %s has no map of its files", name)
		}
	}
	for name, p := range packages {
		if !mapEntry.MatchString(p.comment) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			named := map[string]bool{}
			for _, file := range fileName.FindAllString(p.comment, -1) {
				named[file] = true
				if !p.files[file] {
					t.Errorf("the map names %s, which does not exist", file)
				}
			}
			for file := range p.files {
				if !named[file] && file != "doc.go" {
					t.Errorf("the map does not name %s; add a line that says what it is for", file)
				}
			}
		})
	}
}

// sources are the files of a package, without tests and generated files.
type sources struct {
	comment string
	files   map[string]bool
}

// sourcesByPackage returns the packages of the module by directory.
func sourcesByPackage(t *testing.T) map[string]*sources {
	t.Helper()
	packages := map[string]*sources{}
	walk(t, func(path string) {
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(file) {
			return
		}
		dir, _ := filepath.Rel("..", filepath.Dir(path)) // both are relative to this directory
		dir = filepath.ToSlash(dir)
		p := packages[dir]
		if p == nil {
			p = &sources{files: map[string]bool{}}
			packages[dir] = p
		}
		p.files[filepath.Base(path)] = true
		p.comment += file.Doc.Text()
	})
	return packages
}
