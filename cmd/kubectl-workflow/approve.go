package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const decideLong = `%s what a run asks approvers.

The command shows what is asked, and creates a WorkflowSignal with its digest: a decision about anything
else is refused. The manager checks whether you are one of the approvers. -o yaml --dry-run prints the
WorkflowSignal, which you may commit and let others apply: whoever creates the object decides.`

// deciding is the verb approve or deny.
type deciding struct {
	*factory
	printer               *printer
	decision              v1alpha1.DecisionKind
	step, comment, digest string
	dryRun, stepGiven     bool
	timeout               time.Duration
}

func newApprove(f *factory) *cobra.Command {
	return newDecide(f, v1alpha1.DecisionApprove, "approve", "Approve", "approved")
}

func newDeny(f *factory) *cobra.Command {
	return newDecide(f, v1alpha1.DecisionDeny, "deny", "Deny", "denied")
}

func newDecide(f *factory, decision v1alpha1.DecisionKind, verb, short, done string) *cobra.Command {
	o := &deciding{factory: f, printer: newPrinter(done), decision: decision}
	cmd := &cobra.Command{
		Use: verb + " RUN", Short: short + " what a run asks", Long: fmt.Sprintf(decideLong, short),
		Example: fmt.Sprintf(`  # What the run asks, if it asks one thing
  kubectl workflow %[1]s order-1001 --comment "as agreed"

  # In one of several steps, as a file for Git
  kubectl workflow %[1]s order-1001 --step release --dry-run -o yaml > decision.yaml`, verb),
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.stepGiven = cmd.Flags().Changed("step")
		return o.run(cmd.Context(), args[0])
	}
	cmd.Flags().StringVar(&o.step, "step", "", "The durable name of the step that asks. Needed if several steps ask.")
	cmd.Flags().StringVar(&o.comment, "comment", "", "What the run is told beside the decision.")
	cmd.Flags().StringVar(&o.digest, "digest", "", "Decide only if what is asked has this digest, or one that begins so.")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "Create nothing: print the WorkflowSignal with -o yaml or -o json.")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Second, "Wait at most this long until the manager has taken the decision. 0 does not wait.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *deciding) run(ctx context.Context, argument string) error {
	switch {
	case o.timeout < 0:
		return fmt.Errorf("--timeout %v: give a positive duration, such as 30s, or 0", o.timeout)
	case len(o.comment) > maxComment:
		return fmt.Errorf("--comment has %d bytes, more than %d", len(o.comment), maxComment)
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, data, err := o.findRun(ctx, argument)
	if err != nil {
		return err
	}
	list, err := data.approvals(ctx, found.namespace, found.id)
	if err != nil {
		return err
	}
	asked, err := o.choose(found, list.Items)
	if err != nil {
		return err
	}
	signal := o.signal(found, asked)
	if o.dryRun {
		if err := o.nameFile(ctx, signal); err != nil {
			return err
		}
		o.printer.markDryRun()
		return o.printer.done(o.Out, signal)
	}
	if o.printer.plain() {
		if err := o.show(asked); err != nil {
			return err
		}
	}
	return o.create(ctx, signal)
}

// maxComment bounds a comment, as the WorkflowSignal does.
const maxComment = 1024

// choose returns the approval to decide.
func (o *deciding) choose(found *target, all []datav1alpha1.Approval) (*datav1alpha1.Approval, error) {
	var open []*datav1alpha1.Approval
	for i := range all {
		a := &all[i]
		if o.stepGiven && a.Spec.Step != o.step {
			continue
		}
		if o.stepGiven && a.Status.State != datav1alpha1.ApprovalOpen {
			return nil, fmt.Errorf("step %q of run %s has been decided: %s%s", a.Spec.Step, found.name(), a.Status.State, decidersOf(a))
		}
		if a.Status.State == datav1alpha1.ApprovalOpen {
			open = append(open, a)
		}
	}
	switch {
	case len(open) == 0 && o.stepGiven:
		return nil, fmt.Errorf("step %q of run %s asks for no approval: see kubectl workflow inbox %s", o.step, found.name(), found.name())
	case len(open) == 0:
		return nil, fmt.Errorf("run %s asks for no approval now: see kubectl workflow why %s", found.name(), found.name())
	case len(open) > 1:
		names := make([]string, len(open))
		for i, a := range open {
			names[i] = fmt.Sprintf("%q", line(a.Spec.Step, nameWidth))
		}
		return nil, fmt.Errorf("run %s asks for %d approvals: name one by --step: %s", found.name(), len(open), strings.Join(names, ", "))
	case !strings.HasPrefix(open[0].Spec.Digest, o.digest):
		return nil, fmt.Errorf("step %q of run %s asks for something else now, with digest %s", open[0].Spec.Step, found.name(), open[0].Spec.Digest)
	}
	return open[0], nil
}

// signal returns the WorkflowSignal of the decision.
func (o *deciding) signal(found *target, asked *datav1alpha1.Approval) *v1alpha1.WorkflowSignal {
	return &v1alpha1.WorkflowSignal{
		ObjectMeta: metav1.ObjectMeta{Namespace: found.namespace, GenerateName: generateName(cmp.Or(asked.Spec.Object, "run") + "-" + string(o.decision))},
		Spec: v1alpha1.WorkflowSignalSpec{
			BackendRef: v1alpha1.BackendReference{Name: asked.Spec.Backend},
			Approval: &v1alpha1.ApprovalDecision{
				RunID: asked.Spec.RunID, Step: &asked.Spec.Step, Digest: asked.Spec.Digest, Decision: o.decision, Comment: o.comment,
			},
		},
	}
}

// nameFile gives the decision a name and an idempotencyKey, as a file needs: both are the same if the
// same user decides the same again, so that the object may be applied twice, and others for any other.
func (o *deciding) nameFile(ctx context.Context, signal *v1alpha1.WorkflowSignal) error {
	user, err := o.user(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(signal.Spec.Approval.Digest + " " + user.Username))
	signal.Name, signal.GenerateName = signal.GenerateName+hex.EncodeToString(sum[:5]), ""
	signal.Spec.IdempotencyKey = signal.Name
	return nil
}

// show prints what is decided about.
func (o *deciding) show(a *datav1alpha1.Approval) error {
	if err := fieldsOf(o.Out, "Run", runOf(a), "Step", a.Spec.Step, "Prompt", a.Spec.Prompt, "Approvers", approversOf(a),
		"Approvals", fmt.Sprintf("%d of %d", a.Status.Approvals, a.Spec.Required), "Expires", rfc3339(a.Spec.ExpiresAt.Time), "Digest", a.Spec.Digest,
	); err != nil {
		return err
	}
	if a.Spec.DetailsHidden {
		o.note("There are details that you may not see: they are for those who may get approvals/details.")
	}
	if a.Spec.Details == nil {
		return nil
	}
	details, err := yaml.JSONToYAML(a.Spec.Details.Raw)
	if err != nil {
		return fmt.Errorf("print the details: %w", err)
	}
	var b strings.Builder
	b.WriteString("Details:\n")
	for text := range strings.SplitSeq(strings.TrimSpace(string(details)), "\n") {
		b.WriteString("  " + line(text, 500) + "\n")
	}
	_, err = fmt.Fprint(o.Out, b.String())
	return err
}

// create creates the signal, and waits until the manager has taken it.
func (o *deciding) create(ctx context.Context, signal *v1alpha1.WorkflowSignal) error {
	objects, err := o.objects()
	if err != nil {
		return err
	}
	if err := o.sign(ctx, signal); err != nil {
		return err
	}
	created := &v1alpha1.WorkflowSignal{}
	if err := objects.Post().Namespace(signal.Namespace).Resource("workflowsignals").Body(signal).Do(ctx).Into(created); err != nil {
		return fmt.Errorf("create a WorkflowSignal: %w", err)
	}
	if o.timeout > 0 {
		if created, err = o.await(ctx, created); err != nil {
			return err
		}
	}
	switch c := meta.FindStatusCondition(created.Status.Conditions, v1alpha1.ConditionDelivered); {
	case created.Status.FinishedAt == nil:
		o.note("The manager has not taken the decision yet: see kubectl get workflowsignal %s", created.Name)
		if o.printer.format() == "" {
			o.printer = newPrinter("created")
		}
	case c == nil || c.Status != metav1.ConditionTrue:
		message := "it was not delivered"
		if c != nil {
			message = c.Message
		}
		return fmt.Errorf("the decision was refused: %s (workflowsignal/%s)", message, created.Name)
	}
	return o.printer.done(o.Out, created)
}

// sign writes into the object who creates it, as a policy does where the API server can change
// objects, and checks in any case.
func (o *deciding) sign(ctx context.Context, signal *v1alpha1.WorkflowSignal) error {
	user, err := o.user(ctx)
	if err != nil {
		return err
	}
	creator := v1alpha1.Creator{Username: user.Username, Groups: user.Groups}
	if len(creator.Groups) > maxCreatorGroups || creator.Groups == nil {
		creator.Groups = []string{}
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(creator); err != nil {
		return fmt.Errorf("encode the name of the creator: %w", err)
	}
	signal.Annotations = map[string]string{v1alpha1.AnnotationCreatedBy: strings.TrimSpace(b.String())}
	return nil
}

// user asks the API server who the user is.
func (o *deciding) user(ctx context.Context) (authenticationv1.UserInfo, error) {
	config, err := o.restConfig()
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	client, err := authenticationv1client.NewForConfig(config)
	if err != nil {
		return authenticationv1.UserInfo{}, fmt.Errorf("make a client to ask who you are: %w", err)
	}
	review, err := client.SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, fmt.Errorf("ask the API server who you are: %w", err)
	}
	return review.Status.UserInfo, nil
}

// maxCreatorGroups is the number of groups above which the annotation has none.
const maxCreatorGroups = 100

// await returns the signal once it is finished, or as it is at the timeout.
func (o *deciding) await(ctx context.Context, signal *v1alpha1.WorkflowSignal) (*v1alpha1.WorkflowSignal, error) {
	objects, err := o.objects()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	for signal.Status.FinishedAt == nil {
		events, err := objects.Get().Namespace(signal.Namespace).Resource("workflowsignals").
			Param("watch", "true").Param("fieldSelector", "metadata.name="+signal.Name).Param("resourceVersion", signal.ResourceVersion).
			Watch(limited)
		switch {
		case ctx.Err() != nil:
			return nil, errors.New("interrupted: the decision was made")
		case limited.Err() != nil:
			return signal, nil
		case err != nil:
			return nil, fmt.Errorf("watch WorkflowSignal %s: %w", signal.Name, err)
		}
		for event := range events.ResultChan() {
			now, ok := event.Object.(*v1alpha1.WorkflowSignal)
			if !ok || event.Type == watch.Deleted {
				break
			}
			if signal = now; signal.Status.FinishedAt != nil {
				break
			}
		}
		events.Stop()
		if signal.Status.FinishedAt != nil || limited.Err() != nil {
			continue
		}
		// The API server ends watches now and then: go on from what the object is like now.
		now := &v1alpha1.WorkflowSignal{}
		if err := objects.Get().Namespace(signal.Namespace).Resource("workflowsignals").Name(signal.Name).Do(limited).Into(now); err != nil {
			return nil, fmt.Errorf("read WorkflowSignal %s: %w", signal.Name, err)
		}
		signal = now
	}
	return signal, nil
}

// approversOf says who may decide.
func approversOf(a *datav1alpha1.Approval) string {
	if len(a.Spec.Users)+len(a.Spec.Groups) == 0 {
		return "everybody who may create a WorkflowSignal"
	}
	names := append([]string{}, a.Spec.Users...)
	for _, group := range a.Spec.Groups {
		names = append(names, "group "+group)
	}
	return strings.Join(names, ", ")
}

// decidersOf says who has decided.
func decidersOf(a *datav1alpha1.Approval) string {
	var names []string
	for _, d := range a.Status.Decisions {
		names = append(names, cmp.Or(d.User, "somebody unknown"))
	}
	if len(names) == 0 {
		return ""
	}
	return " by " + strings.Join(names, ", ")
}
