package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
)

// printer prints what -o asks for.
type printer struct {
	flags     *genericclioptions.PrintFlags
	noHeaders bool
	table     printers.ResourcePrinter
	// columns aligns tables with those before.
	columns interface {
		io.Writer
		Flush() error
	}
}

// newPrinter returns a printer. The operation, such as "canceled", follows the names of objects
// where nothing else is asked for.
func newPrinter(operation string) *printer {
	return &printer{flags: genericclioptions.NewPrintFlags(operation).WithTypeSetter(scheme)}
}

// addFlags adds -o, and what belongs to it.
func (p *printer) addFlags(cmd *cobra.Command) {
	p.flags.AddFlags(cmd)
	cmd.Flags().Lookup("output").Usage = "Output format. One of: " + strings.Join(p.formats(), ", ") + "."
	cmd.Flags().BoolVar(&p.noHeaders, "no-headers", false, "Print tables without a header.")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(p.formats(), cobra.ShellCompDirectiveNoFileComp)))
}

func (p *printer) formats() []string { return append(p.flags.AllowedFormats(), "wide") }

func (p *printer) format() string { return *p.flags.OutputFormat }

// plain reports whether the output is for people: no format was asked for, or a wide one.
func (p *printer) plain() bool {
	return (p.format() == "" || p.format() == "wide") && *p.flags.TemplatePrinterFlags.TemplateArgument == ""
}

// validate rejects formats that do not exist before anything is done.
func (p *printer) validate() error {
	if p.plain() {
		return nil
	}
	_, err := p.flags.ToPrinter()
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		return fmt.Errorf("unknown output format %q: use one of %s", p.format(), strings.Join(p.formats(), ", "))
	}
	return err
}

// print prints an object or a list of them, as a table where no other format is asked for.
// Tables of the same columns that are printed one after the other have one header, and columns that are
// at least as wide as before.
func (p *printer) print(out io.Writer, object runtime.Object, table *metav1.Table) error {
	if p.plain() {
		if p.table == nil {
			p.table = printers.NewTablePrinter(printers.PrintOptions{Wide: p.format() == "wide", NoHeaders: p.noHeaders})
			p.columns = printers.GetNewTabWriter(out)
		}
		if err := p.table.PrintObj(table, p.columns); err != nil {
			return err
		}
		return p.columns.Flush()
	}
	return p.printAs(out, object)
}

// done prints what was done to an object: its name and the operation, unless a format is asked
// for.
func (p *printer) done(out io.Writer, object runtime.Object) error {
	if p.format() == "wide" {
		*p.flags.OutputFormat = ""
	}
	return p.printAs(out, object)
}

// markDryRun makes done say that nothing was done.
func (p *printer) markDryRun() {
	p.flags.NamePrintFlags.Operation += " (dry run)"
}

func (p *printer) printAs(out io.Writer, object runtime.Object) error {
	to, err := p.flags.ToPrinter()
	if err != nil {
		return err
	}
	setKind(object)
	if !meta.IsListType(object) {
		return to.PrintObj(object, out)
	}
	items, err := meta.ExtractList(object)
	if err != nil {
		return err
	}
	for _, item := range items {
		setKind(item)
	}
	if p.format() == "name" { // which knows no lists
		for _, item := range items {
			if err := to.PrintObj(item, out); err != nil {
				return err
			}
		}
		return nil
	}
	if err := meta.SetList(object, items); err != nil {
		return err
	}
	return to.PrintObj(object, out)
}

// setKind sets an object's kind, which clients leave out of what they decode.
func setKind(object runtime.Object) {
	if kinds, _, err := scheme.ObjectKinds(object); err == nil && len(kinds) > 0 {
		object.GetObjectKind().SetGroupVersionKind(kinds[0])
	}
}

// listOf returns a list of objects of several kinds, as kubectl prints them.
func listOf(objects ...runtime.Object) *metav1.List {
	list := &metav1.List{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "List"})
	for _, o := range objects {
		setKind(o)
		list.Items = append(list.Items, runtime.RawExtension{Object: o})
	}
	return list
}

// column returns a column of a table. Those of priority 1 are shown by -o wide only.
func column(name string, priority int32) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Priority: priority}
}

// row returns a row of a table.
func row(cells ...any) metav1.TableRow {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "<none>"
		}
	}
	return metav1.TableRow{Cells: cells}
}

// must stops at mistakes in the definition of a command.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
