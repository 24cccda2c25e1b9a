package workflow_test

import (
	"bufio"
	"bytes"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/openworkflow-operator/operator"

// TestExported_MentionsNoInternalPackage: the exported declarations of the public packages
// use only types that an author can name.
func TestExported_MentionsNoInternalPackage(t *testing.T) {
	t.Parallel()
	paths := []string{
		module + "/workflow", module + "/workflow/workflowtest", module + "/step", module + "/worker", module + "/client",
	}
	imports := importer.ForCompiler(token.NewFileSet(), "gc", exportData(t, paths))
	for _, path := range paths {
		t.Run(strings.TrimPrefix(path, module+"/"), func(t *testing.T) {
			p, err := imports.Import(path)
			if err != nil {
				t.Fatal(err)
			}
			check := leakCheck{t: t, pkg: p, seen: map[types.Type]bool{}}
			for _, name := range p.Scope().Names() {
				if o := p.Scope().Lookup(name); o.Exported() {
					check.visit(name, o.Type())
				}
			}
		})
	}
}

// exportData returns a lookup for the export data of the packages and their dependencies.
func exportData(t *testing.T, paths []string) importer.Lookup {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, paths...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		path, file, _ := strings.Cut(lines.Text(), " ")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}

// leakCheck follows the exported declarations of one package.
type leakCheck struct {
	t    *testing.T
	pkg  *types.Package
	seen map[types.Type]bool
}

// visit reports the internal types that are reachable from typ, which belongs to the
// declaration where.
func (c *leakCheck) visit(where string, typ types.Type) {
	if c.seen[typ] {
		return
	}
	c.seen[typ] = true
	switch typ := typ.(type) {
	case *types.Alias:
		if c.named(where, typ.Obj()) {
			c.visit(where, typ.Rhs())
		}
	case *types.Named:
		for arg := range typ.TypeArgs().Types() {
			c.visit(where, arg)
		}
		if !c.named(where, typ.Obj()) {
			return
		}
		c.typeParams(where, typ.TypeParams())
		c.visit(where, typ.Underlying())
		for m := range typ.Methods() {
			if m.Exported() {
				c.visit(where+"."+m.Name(), m.Type())
			}
		}
	case *types.Signature:
		c.typeParams(where, typ.TypeParams())
		c.visit(where, typ.Params())
		c.visit(where, typ.Results())
	case *types.Tuple:
		for v := range typ.Variables() {
			c.visit(where, v.Type())
		}
	case *types.Struct:
		for f := range typ.Fields() {
			if f.Exported() {
				c.visit(where+"."+f.Name(), f.Type())
			}
		}
	case *types.Interface:
		for m := range typ.ExplicitMethods() {
			if m.Exported() {
				c.visit(where+"."+m.Name(), m.Type())
			}
		}
		for e := range typ.EmbeddedTypes() {
			c.visit(where, e)
		}
	case *types.Map:
		c.visit(where, typ.Key())
		c.visit(where, typ.Elem())
	case interface{ Elem() types.Type }: // pointer, slice, array, channel
		c.visit(where, typ.Elem())
	case *types.Union:
		for term := range typ.Terms() {
			c.visit(where, term.Type())
		}
	}
}

// named reports a type of an internal package, and returns whether the type is declared in
// the package under test.
func (c *leakCheck) named(where string, o *types.TypeName) bool {
	if o.Pkg() == nil {
		return false
	}
	if strings.Contains(o.Pkg().Path(), "/internal/") && strings.HasPrefix(o.Pkg().Path(), module) {
		c.t.Errorf("%s.%s shows %s.%s, which authors cannot name", c.pkg.Name(), where, o.Pkg().Path(), o.Name())
	}
	return o.Pkg() == c.pkg
}

func (c *leakCheck) typeParams(where string, params *types.TypeParamList) {
	for p := range params.TypeParams() {
		c.visit(where, p.Constraint())
	}
}
