package main

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const (
	// completeTimeout bounds what a completion asks servers for.
	completeTimeout = 3 * time.Second
	// completeLimit is the largest number of names of each kind that are suggested.
	completeLimit = 100
	// completePages is the largest number of pages that are read. A page may have no runs although
	// others follow.
	completePages = 5
)

// completeFlags completes the values of the flags that all verbs share.
func (f *factory) completeFlags(root *cobra.Command) {
	namespaces := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		core, err := f.core()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := core.Namespaces().List(ctx, metav1.ListOptions{Limit: completeLimit})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	must(root.RegisterFlagCompletionFunc("namespace", namespaces))
	must(root.RegisterFlagCompletionFunc("manager-namespace", namespaces))
	must(root.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if config, err := f.config.ToRawKubeConfigLoader().RawConfig(); err == nil {
			for name := range config.Contexts {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}))
}

// completeRun completes a verb's only argument: names of WorkflowRuns, then ids of runs without
// an object.
func (f *factory) completeRun(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completeFirst(cmd, args, func(ctx context.Context) (names []string) {
		list := &v1alpha1.WorkflowRunList{}
		f.readFirst(ctx, "workflowruns", list)
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return append(names, f.runIDs(ctx)...)
	})
}

// completeFirst completes a verb's only argument by what a function finds in time.
func completeFirst(cmd *cobra.Command, args []string, find func(context.Context) []string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	return slices.DeleteFunc(find(ctx), isOdd), cobra.ShellCompDirectiveNoFileComp
}

// isOdd says that a shell may read a name as more than a word. The shell writes what it completes into the
// command line as it is, and ids of runs and names of workflows are other people's input.
func isOdd(name string) bool {
	return name == "" || name[0] == '-' || strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._/@:+", r)
	})
}

// readFirst reads the first objects of a kind in the namespace. Where it cannot, the list stays empty:
// nobody wants an error from a completion.
func (f *factory) readFirst(ctx context.Context, resource string, list runtime.Object) {
	if objects, namespace, err := f.objectsIn(); err == nil {
		_ = objects.Get().Namespace(namespace).Resource(resource).Param("limit", "100").Do(ctx).Into(list)
	}
}

func (f *factory) runIDs(ctx context.Context) []string {
	data, namespace, err := f.dataIn(ctx)
	if err != nil {
		return nil
	}
	var ids []string
	next := ""
	for range completePages {
		page, err := data.list(ctx, namespace, fields.Everything(), completeLimit, next)
		if err != nil {
			return ids
		}
		for i := range page.Items {
			if run := &page.Items[i]; run.Status.Object == "" {
				ids = append(ids, run.Name)
			}
		}
		if next = page.Continue; next == "" || len(ids) >= completeLimit {
			break
		}
	}
	return ids[:min(len(ids), completeLimit)]
}

// completeWorkflow completes the name of a workflow: those that the namespace's pools serve.
func (f *factory) completeWorkflow(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completeFirst(cmd, args, func(ctx context.Context) (names []string) {
		pools := &v1alpha1.WorkerPoolList{}
		f.readFirst(ctx, "workerpools", pools)
		for i := range pools.Items {
			for _, w := range pools.Items[i].Status.Workflows {
				names = append(names, w.Name)
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	})
}

// completeSchedule completes a verb's only argument: names of WorkflowSchedules.
func (f *factory) completeSchedule(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completeFirst(cmd, args, func(ctx context.Context) (names []string) {
		list := &v1alpha1.WorkflowScheduleList{}
		f.readFirst(ctx, "workflowschedules", list)
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names
	})
}
