package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const whyLong = `Say in one sentence what a run waits for, or how it ended, and what to do.

schedule/NAME is a WorkflowSchedule: why it starts runs or none, what has happened to its newest slots,
and how far its backfills are. --limit and --since show slots before those too, newest first, from the
data API; -o json and the like then print these slots.

The texts of errors are shown to those who may read payloads (the ClusterRole edit).`

type whyOptions struct {
	*factory
	printer *printer
	// limit and since select slots of a schedule. Without both flags, they are those of its status.
	limit   int
	since   time.Duration
	isSlots bool
}

func newWhy(f *factory) *cobra.Command {
	o := &whyOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "why RUN", Short: "Say what a run waits for, and what to do", Long: whyLong,
		Example: `  # By the name of its WorkflowRun
  kubectl workflow why order-1001

  # With the steps, the runs below and the pools
  kubectl workflow why order-1001 -o wide

  # Why has a slot not started?
  kubectl workflow why schedule/nightly-report

  # What has happened to its slots in the last week?
  kubectl workflow why schedule/nightly-report --since 168h`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.isSlots = cmd.Flags().Changed("limit") || cmd.Flags().Changed("since")
			return o.run(cmd.Context(), args[0])
		},
	}
	cmd.Flags().IntVar(&o.limit, "limit", 100, "Of a schedule, the largest number of outcomes to print; 0 means all.")
	cmd.Flags().DurationVar(&o.since, "since", 0, "Of a schedule, only slots within this time, such as 24h.")
	o.printer.addFlags(cmd)
	return cmd
}

// validate rejects flags that mean nothing.
func (o *whyOptions) validate(isSchedule bool) error {
	switch {
	case o.limit < 0:
		return fmt.Errorf("--limit %d: give 0 for all outcomes, or a positive number", o.limit)
	case o.since < 0:
		return fmt.Errorf("--since %v: give a positive duration, such as 24h", o.since)
	case o.isSlots && !isSchedule:
		return errors.New("--limit and --since select slots of a schedule: name one, as schedule/NAME")
	}
	return o.printer.validate()
}

func (o *whyOptions) run(ctx context.Context, argument string) error {
	_, isSchedule := scheduleName(argument)
	if err := o.validate(isSchedule); err != nil {
		return err
	}
	if isSchedule {
		return o.schedule(ctx, argument)
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	why := &datav1alpha1.RunWhy{}
	if found.started() {
		data, err := o.data(ctx)
		if err != nil {
			return err
		}
		if err := data.get(ctx, found.namespace, found.id, "why", why); err != nil {
			return fmt.Errorf("ask why run %s waits: %w", found.id, err)
		}
	} else {
		why = whyOfObject(found.object)
	}
	if !o.printer.plain() {
		return o.printer.print(o.Out, why, nil)
	}
	return o.describe(why)
}

// whyOfObject tells what the status of a WorkflowRun says that has no run yet.
func whyOfObject(object *v1alpha1.WorkflowRun) *datav1alpha1.RunWhy {
	why := &datav1alpha1.RunWhy{
		ObjectMeta: metav1.ObjectMeta{Name: runID(object), Namespace: object.Namespace}, Object: object.Name, State: string(object.Status.State),
		WorkflowName: object.Spec.WorkflowName, Version: object.Spec.Version, Backend: object.Spec.BackendRef.Name,
		Reason: v1alpha1.ReasonNotObserved, Message: "the manager has not seen the WorkflowRun yet", Next: "nothing; if it stays, check that the manager runs",
	}
	if c := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason != v1alpha1.ReasonNotObserved {
		why.Reason, why.Message, why.Since, why.Next = c.Reason, c.Message, &c.LastTransitionTime, ""
	}
	return why
}

// describe prints the sentence and what to do and, with -o wide, what belongs to it.
func (o *whyOptions) describe(why *datav1alpha1.RunWhy) error {
	since := ""
	if why.Since != nil {
		since = fmt.Sprintf("%s (%s ago)", rfc3339(why.Since.Time), ageOf(*why.Since, o.now()))
	}
	fields := []string{"Run", why.Name, "Object", why.Object, "Workflow", why.WorkflowName, "Version", why.Version, "Status", why.State,
		"Reason", why.Reason, "Since", since, "Until", timeText(why.Until), "Why", why.Message, "Next", why.Next}
	if o.printer.format() == "wide" {
		fields = append(fields, wideFields(why)...)
	}
	return fieldsOf(o.Out, fields...)
}

func wideFields(why *datav1alpha1.RunWhy) (fields []string) {
	fields = append(fields, "Backend", why.Backend)
	if why.Ahead > 0 {
		fields = append(fields, "Ahead", datav1alpha1.AtLeast(why.Ahead))
	}
	for _, w := range why.Waits {
		fields = append(fields, "Step", fmt.Sprintf("%s, %s since %s%s%s%s", w.Step, w.Kind, rfc3339(w.Since.Time),
			detail(" for signal ", w.Signal), detail(" for run ", w.Child), detail(" until ", timeText(w.Until))))
	}
	for _, b := range why.Blockers {
		fields = append(fields, "Below", fmt.Sprintf("%s (%s): %s", b.Run, b.WorkflowName, b.Message))
	}
	for _, p := range why.Pools {
		fields = append(fields, "Pool", fmt.Sprintf("%s, %d of %d pods ready, %s slots, serves %s", p.Name, p.ReadyPods, p.DesiredPods,
			strconv.Itoa(int(p.Slots)), orNothing(strings.Join(p.Workflows, " "))))
	}
	return fields
}

// detail is a name with a value, empty without one.
func detail(name, value string) string {
	if value == "" {
		return ""
	}
	return name + value
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}
