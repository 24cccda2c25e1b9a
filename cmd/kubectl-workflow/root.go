package main

import (
	"github.com/spf13/cobra"
)

const rootLong = `Start, show and steer the runs of workflows.

A run is named by its WorkflowRun object, or by its id. workflowrun/NAME and run/ID name one of
the two where both exist.

Exit codes: 0 done; 1 the command failed; 2 there is no such run; 3 you lack a right; 4 the data
API cannot be reached; 5 the time to wait is over; 10 the run has failed; 11 the run was canceled.`

// The groups of verbs, in the order of the help.
const (
	groupRuns  = "runs"
	groupSteer = "steer"
	groupAgain = "again"
	groupCheck = "check"
)

// newRoot returns the command line.
func newRoot(f *factory) *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-workflow",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl workflow"},
		Short:         "Start, show and steer the runs of workflows",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(f.In)
	root.SetOut(f.Out)
	root.SetErr(f.ErrOut)
	f.addFlags(root)
	root.AddGroup(
		&cobra.Group{ID: groupRuns, Title: "Start and read runs:"},
		&cobra.Group{ID: groupSteer, Title: "Steer runs:"},
		&cobra.Group{ID: groupAgain, Title: "Run again:"},
		&cobra.Group{ID: groupCheck, Title: "Workers and installation:"},
	)
	add := func(group string, verbs ...*cobra.Command) {
		for _, verb := range verbs {
			verb.GroupID = group
			root.AddCommand(verb)
		}
	}
	add(groupRuns,
		newStart(f),
		newList(f),
		newDescribe(f),
		newWhy(f),
		newWatch(f),
		newLogs(f),
		newOutput(f),
		newExport(f),
		newImport(f),
	)
	add(groupSteer,
		newInbox(f),
		newApprove(f),
		newDeny(f),
		newSignal(f),
		newCancel(f),
		newSuspend(f),
		newResume(f),
		newSchedule(f),
	)
	add(groupAgain,
		newRetry(f),
		newRerun(f),
		newFork(f),
		newBulk(f),
	)
	add(groupCheck,
		newPools(f),
		newTop(f),
		newDoctor(f),
	)
	return root
}
