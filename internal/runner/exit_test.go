package runner

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mightNotReturn follows the name of a function in its comment if the function may end its
// goroutine with runtime.Goexit. Only what a caller has deferred is then still executed.
const mightNotReturn = " (might not return) "

// callee identifies a function by its name and its number of arguments. That is enough as
// long as no function that always returns has both in common with one that might not.
type callee struct {
	name      string
	arguments int
}

var goexit = callee{name: "Goexit"}

func TestFunctionsThatMightNotReturnSaySo(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	positions := token.NewFileSet()
	calls := map[*ast.FuncDecl][]callee{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(positions, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				calls[f] = calledBy(f)
			}
		}
	}
	exits := exiting(calls)
	if len(exits) < 20 {
		t.Errorf("only %d functions end their goroutine: has the call of runtime.Goexit not been found?", len(exits))
	}
	for f := range calls {
		first, _, _ := strings.Cut(f.Doc.Text(), "\n")
		if marked := strings.HasPrefix(first, f.Name.Name+mightNotReturn); marked != exits[f] {
			t.Errorf("%s: the comment of %s has the mark%q: %v, want %v",
				positions.Position(f.Pos()), f.Name.Name, mightNotReturn, marked, exits[f])
		}
	}
}

// exiting returns the functions from which runtime.Goexit can be reached.
func exiting(calls map[*ast.FuncDecl][]callee) map[*ast.FuncDecl]bool {
	exits, exitCalls := map[*ast.FuncDecl]bool{}, map[callee]bool{goexit: true}
	for found := true; found; {
		found = false
		for f, called := range calls {
			if !exits[f] && slices.ContainsFunc(called, func(c callee) bool { return exitCalls[c] }) {
				exits[f], found = true, true
				exitCalls[callee{f.Name.Name, f.Type.Params.NumFields()}] = true
			}
		}
	}
	return exits
}

// calledBy returns what a function calls, except on goroutines that it starts.
func calledBy(f *ast.FuncDecl) []callee {
	var called []callee
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			return false
		case *ast.CallExpr:
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				called = append(called, callee{fun.Name, len(n.Args)})
			case *ast.SelectorExpr:
				called = append(called, callee{fun.Sel.Name, len(n.Args)})
			}
		}
		return true
	})
	return called
}
