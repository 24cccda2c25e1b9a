package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // the zones of schedules, where the user's machine has none

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

const scheduleLong = `Start and steer what a WorkflowSchedule starts.

kubectl get workflowschedules lists them, and kubectl workflow why schedule/NAME says what one does.`

const scheduleExample = `  # Start a run now
  kubectl workflow schedule trigger nightly-report

  # What would start, had it been there last week?
  kubectl workflow schedule backfill nightly-report --from 168h --dry-run

  # Let nothing start until it is resumed
  kubectl workflow schedule pause nightly-report
  kubectl workflow schedule resume nightly-report`

// newSchedule returns the verbs for WorkflowSchedules.
func newSchedule(f *factory) *cobra.Command {
	cmd := &cobra.Command{Use: "schedule", Aliases: []string{"schedules"}, Short: "Start and steer what a schedule starts", Long: scheduleLong, Example: scheduleExample}
	cmd.AddCommand(
		newTrigger(f),
		newBackfill(f),
		newSchedulePause(f, "pause", "Let no slot of a schedule start until it is resumed", "paused", true),
		newSchedulePause(f, "resume", "Let slots start again; those that have passed do not", "resumed", false),
	)
	return cmd
}

// newTrigger returns the verb that starts a run at once.
func newTrigger(f *factory) *cobra.Command {
	p := newPrinter("created")
	cmd := &cobra.Command{
		Use: "trigger NAME", Short: "Start a run of a schedule now",
		Long: `Start a run of a schedule now, besides its slots, also if it is suspended.

The run is made from the template as for a slot of this second, and the schedule owns it. While it is
open, the schedule's overlapPolicy applies to slots that are due.

A schedule with runs InDatabase gets a run without a WorkflowRun, which the data API starts. Slots that
are due do not see it.`,
		Example: `  kubectl workflow schedule trigger nightly-report`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeSchedule,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.validate(); err != nil {
			return err
		}
		s, err := f.readSchedule(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		trigger := f.trigger
		if schedulespec.IsInDatabase(s) {
			trigger = f.triggerInDatabase
		}
		run, err := trigger(cmd.Context(), s)
		if err != nil {
			return err
		}
		return p.done(f.Out, run)
	}
	p.addFlags(cmd)
	return cmd
}

// trigger creates a run of a schedule. Its name has the second, so it waits for that to pass if the
// schedule was triggered a moment before.
func (f *factory) trigger(ctx context.Context, s *v1alpha1.WorkflowSchedule) (runtime.Object, error) {
	objects, err := f.objects()
	if err != nil {
		return nil, err
	}
	for at := f.now().UTC().Truncate(time.Second); ; at = at.Add(time.Second) {
		run, err := schedulespec.Run(s, at, schedulespec.Manual)
		if err != nil {
			return nil, err
		}
		created := &v1alpha1.WorkflowRun{}
		err = objects.Post().Namespace(s.Namespace).Resource("workflowruns").Body(run).Do(ctx).Into(created)
		if err == nil {
			return created, nil
		}
		if !apierrors.IsAlreadyExists(err) || at.Sub(f.now()) > time.Minute {
			return nil, fmt.Errorf("start a run of WorkflowSchedule %s: %w", s.Name, err)
		}
	}
}

// triggerInDatabase starts a run of a schedule whose runs have no objects.
func (f *factory) triggerInDatabase(ctx context.Context, s *v1alpha1.WorkflowSchedule) (runtime.Object, error) {
	run, err := schedulespec.Run(s, f.now().UTC().Truncate(time.Second), schedulespec.Manual)
	if err != nil {
		return nil, err
	}
	data, err := f.data(ctx)
	if err != nil {
		return nil, err
	}
	created := &datav1alpha1.Run{}
	err = data.rest.Post().Namespace(s.Namespace).Resource("runs").Body(&datav1alpha1.Run{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace},
		Spec: datav1alpha1.RunSpec{
			Backend: run.Spec.BackendRef.Name, WorkflowName: run.Spec.WorkflowName, Version: run.Spec.Version,
			Input: run.Spec.Input, TimeoutSeconds: run.Spec.TimeoutSeconds,
		},
	}).Do(ctx).Into(created)
	if err != nil {
		return nil, fmt.Errorf("start a run of WorkflowSchedule %s: %w", s.Name, err)
	}
	return created, nil
}

// newSchedulePause returns a verb that sets spec.suspend.
func newSchedulePause(f *factory, use, short, operation string, suspend bool) *cobra.Command {
	p := newPrinter(operation)
	cmd := &cobra.Command{
		Use: use + " NAME", Short: short, Long: short + `. Open runs go on.

This sets spec.suspend. If the schedule is applied from Git, change it there.`,
		Example: "  kubectl workflow schedule " + use + " nightly-report",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeSchedule,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.validate(); err != nil {
			return err
		}
		s, err := f.patchSchedule(cmd.Context(), args[0], types.MergePatchType, fmt.Appendf(nil, `{"spec":{"suspend":%t}}`, suspend), false)
		if err != nil {
			return err
		}
		return p.done(f.Out, s)
	}
	p.addFlags(cmd)
	return cmd
}

const backfillLong = `Start the slots of a past interval.

This adds a request to spec.backfills of the schedule, which the manager carries out once. Slots that
are due meanwhile start on time. The runs have the label openworkflow.dev/backfill, and
kubectl workflow why schedule/NAME shows how far it is. Slots that have a WorkflowRun already are left
out, unless --reprocess says otherwise.

--dry-run changes nothing and says how many slots would start.`

const backfillExample = `  # What would be started?
  kubectl workflow schedule backfill nightly-report --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --dry-run

  # Start it, two at a time
  kubectl workflow schedule backfill nightly-report --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --max-parallel 2

  # Once more those that have failed since yesterday
  kubectl workflow schedule backfill nightly-report --from 24h --reprocess Failed`

type backfillOptions struct {
	*factory
	printer *printer

	from, to, name, overlap, reprocess string
	maxParallel                        int32
	dryRun                             bool
}

func newBackfill(f *factory) *cobra.Command {
	o := &backfillOptions{factory: f, printer: newPrinter("backfilled")}
	cmd := &cobra.Command{
		Use: "backfill NAME --from TIME [--to TIME]", Short: "Start the slots of a past interval", Long: backfillLong, Example: backfillExample,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeSchedule,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.from, "from", "", "The earliest slot: a time such as 2026-01-01T00:00:00Z, or a time ago such as 24h.")
	flags.StringVar(&o.to, "to", "", "The latest slot. By default now.")
	flags.StringVar(&o.name, "name", "", "The name of the request. By default it is made from the interval, so that a repeated command starts nothing twice.")
	flags.StringVar(&o.overlap, "overlap-policy", "", "Allow starts slots beside open runs, Forbid when none is open. By default Allow.")
	flags.StringVar(&o.reprocess, "reprocess", "", "Which slots start that have a WorkflowRun: None, Failed or All. By default None.")
	flags.Int32Var(&o.maxParallel, "max-parallel", 0, "How many runs of the backfill may be open. By default 10.")
	flags.BoolVar(&o.dryRun, "dry-run", false, "Say how many slots would start, and start none.")
	for flag, values := range map[string][]string{"overlap-policy": {"Allow", "Forbid"}, "reprocess": {"None", "Failed", "All"}} {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	o.printer.addFlags(cmd)
	return cmd
}

// request returns the request that the flags describe.
func (o *backfillOptions) request() (*v1alpha1.Backfill, error) {
	if o.from == "" {
		return nil, errors.New("give --from, the earliest slot, such as 2026-01-01T00:00:00Z or 24h")
	}
	from, err := o.instant("--from", o.from)
	if err != nil {
		return nil, err
	}
	to := o.now()
	if o.to != "" {
		if to, err = o.instant("--to", o.to); err != nil {
			return nil, err
		}
	}
	switch {
	case to.Before(from):
		return nil, errors.New("--to is before --from: no slot is between them")
	case to.After(o.now()):
		return nil, errors.New("--to is in the future: a backfill is for slots that have passed; later ones start by themselves")
	case o.maxParallel < 0 || o.maxParallel > 100:
		return nil, errors.New("--max-parallel is a number from 1 to 100")
	}
	request := &v1alpha1.Backfill{
		Name: o.name, StartAt: &metav1.Time{Time: from.UTC().Truncate(time.Second)}, EndAt: &metav1.Time{Time: to.UTC().Truncate(time.Second)},
		OverlapPolicy: o.overlap, MaxParallel: o.maxParallel, Reprocess: o.reprocess,
	}
	if o.name == "" {
		const layout = "20060102-150405"
		request.Name = request.StartAt.Format(layout) + "-" + request.EndAt.Format(layout)
	}
	return request, nil
}

// instant parses a time, or a duration before now.
func (o *backfillOptions) instant(flag, text string) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return o.now().Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("%s %q is neither a time such as 2026-01-01T00:00:00Z nor a time ago such as 24h", flag, text)
}

func (o *backfillOptions) run(ctx context.Context, name string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	request, err := o.request()
	if err != nil {
		return err
	}
	for {
		s, err := o.readSchedule(ctx, name)
		if err != nil {
			return err
		}
		patch, err := addBackfill(s, request)
		if err != nil {
			return err
		}
		changed, err := o.patchSchedule(ctx, s.Name, types.JSONPatchType, patch, o.dryRun)
		switch {
		case apierrors.IsConflict(err): // the manager has written the status meanwhile
			continue
		case err != nil:
			return err
		case o.dryRun:
			return o.preview(ctx, changed, request)
		default:
			return o.printer.done(o.Out, changed)
		}
	}
}

// maxBackfills is how many requests a schedule holds.
const maxBackfills = 16

// addBackfill returns the patch that adds a request, if the schedule has not changed since it was
// read. The oldest request that is done makes room for it. The others are not written, as their times
// may have fractions of a second, which a metav1.Time loses.
func addBackfill(s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill) ([]byte, error) {
	done := map[string]bool{}
	for i := range s.Status.Backfills {
		done[s.Status.Backfills[i].Name] = s.Status.Backfills[i].State.Terminal()
	}
	var removed []int
	room := maxBackfills - len(s.Spec.Backfills)
	for i := range s.Spec.Backfills {
		known := &s.Spec.Backfills[i]
		if known.Name == request.Name {
			return nil, fmt.Errorf("WorkflowSchedule %s has a backfill %q already, which is carried out once: give --name to do it again", s.Name, request.Name)
		}
		if room <= 0 && done[known.Name] {
			room++
			removed = append(removed, i)
		}
	}
	if room <= 0 {
		return nil, fmt.Errorf("WorkflowSchedule %s has %d backfills that are not done, and takes no more: wait, or remove one from spec.backfills", s.Name, maxBackfills)
	}
	patch := []map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": s.UID},
		{"op": "add", "path": "/metadata/resourceVersion", "value": s.ResourceVersion},
	}
	if len(s.Spec.Backfills) == 0 {
		return json.Marshal(append(patch, map[string]any{"op": "add", "path": "/spec/backfills", "value": []*v1alpha1.Backfill{request}}))
	}
	for _, i := range slices.Backward(removed) {
		patch = append(patch, map[string]any{"op": "remove", "path": fmt.Sprintf("/spec/backfills/%d", i)})
	}
	return json.Marshal(append(patch, map[string]any{"op": "add", "path": "/spec/backfills/-", "value": request}))
}

// preview prints what a backfill would start.
func (o *backfillOptions) preview(ctx context.Context, s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill) error {
	if !o.printer.plain() {
		return o.printer.printAs(o.Out, s)
	}
	if schedulespec.IsInDatabase(s) {
		return fmt.Errorf("the runs of WorkflowSchedule %s are in the database, and only the manager tells which slots have one: add a request to spec.backfills with dryRun: true", s.Name)
	}
	runs, err := o.runsOfSchedule(ctx, s)
	if err != nil {
		return err
	}
	b, err := schedulespec.NewBackfill(s, request, runs, o.now())
	if err != nil {
		return err
	}
	slots, starts, err := b.Count()
	if err != nil {
		return err
	}
	first, last := "", ""
	if next, _, _ := b.Next(request.StartAt.Add(-time.Second), 1); len(next) > 0 {
		first = rfc3339(next[0])
	}
	if at, ok := b.Last(); ok {
		last = rfc3339(at)
	}
	return fieldsOf(o.Out, "Schedule", s.Name, "Backfill", request.Name, "Slots", fmt.Sprint(slots), "Start", fmt.Sprint(starts),
		"Skipped", fmt.Sprint(slots-starts), "First start", first, "Last slot", last)
}

// runsOfSchedule returns the WorkflowRuns of a schedule.
func (f *factory) runsOfSchedule(ctx context.Context, s *v1alpha1.WorkflowSchedule) ([]v1alpha1.WorkflowRun, error) {
	objects, err := f.objects()
	if err != nil {
		return nil, err
	}
	var runs []v1alpha1.WorkflowRun
	for next := ""; ; {
		page := &v1alpha1.WorkflowRunList{}
		err := objects.Get().Namespace(s.Namespace).Resource("workflowruns").Param("labelSelector", v1alpha1.LabelSchedule+"="+schedulespec.LabelValue(s.Name)).
			Param("limit", "500").Param("continue", next).Do(ctx).Into(page)
		if err != nil {
			return nil, fmt.Errorf("list the runs of WorkflowSchedule %s: %w", s.Name, err)
		}
		runs = append(runs, page.Items...)
		if next = page.Continue; next == "" {
			return runs, nil
		}
	}
}

// scheduleName returns the name that an argument gives to a schedule, false if it names another kind.
func scheduleName(argument string) (string, bool) {
	kind, name, qualified := strings.Cut(argument, "/")
	if !qualified {
		return "", false
	}
	switch strings.ToLower(kind) {
	case "schedule", "schedules", "wfs", "workflowschedule", "workflowschedules", "workflowschedule.openworkflow.dev", "workflowschedules.openworkflow.dev":
		return name, true
	default:
		return "", false
	}
}

// readSchedule reads a schedule by its name, with or without its kind.
func (f *factory) readSchedule(ctx context.Context, argument string) (*v1alpha1.WorkflowSchedule, error) {
	name, err := onlyScheduleName(argument)
	if err != nil {
		return nil, err
	}
	objects, namespace, err := f.objectsIn()
	if err != nil {
		return nil, err
	}
	s := &v1alpha1.WorkflowSchedule{}
	if err := objects.Get().Namespace(namespace).Resource("workflowschedules").Name(name).Do(ctx).Into(s); err != nil {
		return nil, fmt.Errorf("read WorkflowSchedule %s: %w", name, err)
	}
	if text := s.Unreadable.SpecMessage(); text != "" {
		return nil, fmt.Errorf("WorkflowSchedule %s: %s", name, text)
	}
	s.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowSchedule"))
	return s, nil
}

// onlyScheduleName returns the name of a schedule where nothing else can be meant.
func onlyScheduleName(argument string) (string, error) {
	name, qualified := scheduleName(argument)
	if !qualified {
		name = argument
	}
	if name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q names no WorkflowSchedule: give its name", argument)
	}
	return name, nil
}

// patchSchedule changes the spec of a schedule; a trial changes nothing.
func (f *factory) patchSchedule(ctx context.Context, argument string, kind types.PatchType, patch []byte, trial bool) (*v1alpha1.WorkflowSchedule, error) {
	name, err := onlyScheduleName(argument)
	if err != nil {
		return nil, err
	}
	objects, namespace, err := f.objectsIn()
	if err != nil {
		return nil, err
	}
	request := objects.Patch(kind).Namespace(namespace).Resource("workflowschedules").Name(name).Param("fieldValidation", "Strict").Body(patch)
	if trial {
		request = request.Param("dryRun", "All")
	}
	s := &v1alpha1.WorkflowSchedule{}
	if err := request.Do(ctx).Into(s); err != nil {
		return nil, fmt.Errorf("change WorkflowSchedule %s: %w", name, err)
	}
	return s, nil
}
