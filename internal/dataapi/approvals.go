package dataapi

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

var (
	_ rest.Getter               = &approvals{}
	_ rest.Lister               = &approvals{}
	_ rest.Scoper               = &approvals{}
	_ rest.SingularNameProvider = &approvals{}
)

// approvals serves the resource approvals: what runs ask approvers. Details are shown only to callers
// who may get approvals/details, which is no resource but a right.
type approvals struct {
	reader
	tables
}

func (*approvals) New() runtime.Object     { return &datav1alpha1.Approval{} }
func (*approvals) NewList() runtime.Object { return &datav1alpha1.ApprovalList{} }
func (*approvals) Destroy()                {}
func (*approvals) NamespaceScoped() bool   { return true }
func (*approvals) GetSingularName() string { return "approval" }

var approvalResource = schema.GroupResource{Group: datav1alpha1.GroupVersion.Group, Resource: "approvals"}

// nameDigits is how many digits of the digest are a part of the name.
const nameDigits = 12

// approvalName names an approval: by its run and the beginning of its digest, of which the step is a
// part.
func approvalName(a *store.ApprovalView) string {
	return a.Run.ID + "." + a.Digest[:min(len(a.Digest), nameDigits)]
}

// maxRequired bounds the number of approvers that an approval shows as required.
const maxRequired = 1000

// maxApprovals bounds the approvals of an answer: each may have 64 KiB.
const maxApprovals = 100

// Get returns the approval of this name, in any state.
func (s *approvals) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return nil, apierrors.NewNotFound(approvalResource, name)
	}
	details, err := s.may(ctx, "approvals", "details", name)
	if err != nil {
		return nil, err
	}
	var found *datav1alpha1.Approval
	err = s.each(ctx, "", func(db *database) error {
		if found != nil {
			return nil
		}
		return payloadReads.within(ctx, func() error {
			view, err := db.View(readTimeout).Approval(ctx, name[:dot], name[dot+1:])
			if err != nil || view == nil || approvalName(view) != name {
				return err
			}
			found = s.approvalOf(ctx, view, db.backend, details)
			return reserveAnswer(ctx, view.Size())
		})
	})
	if err == nil && found == nil {
		err = apierrors.NewNotFound(approvalResource, name)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// approvalFilter is what a field selector asks for.
type approvalFilter struct {
	backend, runID string
	none           bool
}

// approvalFields are the fields by which approvals can be selected.
var approvalFields = []string{datav1alpha1.FieldBackend, datav1alpha1.FieldRunID, "metadata.namespace"}

// convertApprovalField is convertField for approvals.
func convertApprovalField(label, value string) (string, string, error) {
	if !slices.Contains(approvalFields, label) {
		return "", "", fmt.Errorf("approvals cannot be selected by %q: use one of %s", label, strings.Join(approvalFields, ", "))
	}
	return label, value, nil
}

func parseApprovalSelector(selector fields.Selector, namespace string) (f approvalFilter, err error) {
	if selector == nil {
		return f, nil
	}
	for _, r := range selector.Requirements() {
		switch {
		case r.Operator != selection.Equals && r.Operator != selection.DoubleEquals:
			return f, apierrors.NewBadRequest(fmt.Sprintf("%s%s%s: approvals are selected by =", r.Field, r.Operator, r.Value))
		case r.Field == datav1alpha1.FieldBackend:
			f.backend = r.Value
		case r.Field == datav1alpha1.FieldRunID:
			f.runID = r.Value
		case r.Field == "metadata.namespace":
			f.none = f.none || r.Value != namespace
		}
	}
	return f, nil
}

// List returns a page of those that are open, oldest first or, of one run, of all.
func (s *approvals) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if o == nil {
		o = &internalversion.ListOptions{}
	}
	fieldSelector := o.FieldSelector
	if err := plainList("approvals", namespace, &internalversion.ListOptions{LabelSelector: o.LabelSelector}); err != nil {
		return nil, err
	}
	filter, err := parseApprovalSelector(fieldSelector, namespace)
	if err != nil {
		return nil, err
	}
	position, err := parseListPosition[approvalKey](o.Continue)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.ApprovalList{Items: []datav1alpha1.Approval{}}
	if filter.none {
		return list, nil
	}
	return list, s.page(ctx, filter, &position, min(limitOf(o.Limit), maxApprovals), list)
}

// shownApproval is an approval and the databases that have it.
type shownApproval struct {
	store.ApprovalView
	of []*database
}

// approvalKey is what a position has of an approval beside its time.
type approvalKey struct {
	RunID string `json:"run"`
	Step  string `json:"step"`
}

// page adds a page behind the position to the list.
func (s *approvals) page(ctx context.Context, filter approvalFilter, position *listPosition[approvalKey], limit int, list *datav1alpha1.ApprovalList) error {
	details, err := s.may(ctx, "approvals", "details", "")
	if err != nil {
		return err
	}
	return s.databases.use(ctx, genericapirequest.NamespaceValue(ctx), filter.backend, func(open []*database) error {
		return payloadReads.within(ctx, func() error {
			page, err := readApprovals(ctx, open, filter, position, limit)
			if err != nil {
				return err
			}
			size := store.Truncate(&page, limit)
			for i := range page.Items {
				a := &page.Items[i]
				position.pass(a.CreatedAt, approvalKey{a.Run.ID, a.Step}, a.of)
				list.Items = append(list.Items, *s.approvalOf(ctx, &a.ApprovalView, a.of[0].backend, details))
			}
			if page.More {
				list.Continue = position.String()
			}
			return reserveAnswer(ctx, size)
		})
	})
}

// readApprovals reads a page of approvals behind a position.
func readApprovals(
	ctx context.Context, open []*database, filter approvalFilter, position *listPosition[approvalKey], limit int,
) (store.ViewPage[shownApproval], error) {
	return readMerged(ctx, open, limit, func(db *database) (store.ViewPage[store.ApprovalView], error) {
		wanted := store.ApprovalFilter{RunID: filter.runID}
		var after *store.ApprovalCursor
		if key, at, passed := position.in(db); passed {
			after = &store.ApprovalCursor{CreatedAt: at, RunID: key.RunID, Step: key.Step}
		} else {
			wanted.CreatedFrom = at
		}
		return orNone(db.View(readTimeout).Approvals(ctx, wanted, after, limit))
	}, func(a store.ApprovalView, db *database) shownApproval {
		return shownApproval{a, []*database{db}}
	}, func(a, b *shownApproval) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Run.ID, b.Run.ID), strings.Compare(a.Step, b.Step))
	}, func(into, same *shownApproval) {
		into.of = append(into.of, same.of...)
	})
}

// approvalOf returns the resource for a row, with details if the caller may see them.
func (s *approvals) approvalOf(ctx context.Context, view *store.ApprovalView, backend string, details bool) *datav1alpha1.Approval {
	namespace := genericapirequest.NamespaceValue(ctx)
	out := &datav1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{
			Name: approvalName(view), Namespace: namespace, UID: types.UID(approvalName(view)),
			CreationTimestamp: metav1.NewTime(view.CreatedAt.UTC().Truncate(time.Second)),
		},
		Spec: datav1alpha1.ApprovalSpec{
			Backend: backend, RunID: view.Run.ID, Object: s.objectOf(&view.Run.Run, namespace), WorkflowName: view.Run.WorkflowName,
			Step: view.Step, Prompt: view.Request.Prompt, Users: view.Request.Approvers.Users, Groups: view.Request.Approvers.Groups,
			Required: int32(min(max(view.Request.Required, 1), maxRequired)), Digest: view.Digest,
			ExpiresAt: *timeOf(&view.ExpiresAt), OnExpiry: view.OnExpiry,
		},
		Status: datav1alpha1.ApprovalStatus{State: approvalState(view), Approvals: int32(view.Approvals()), DecidedAt: timeOf(view.DecidedAt)},
	}
	for _, d := range view.Decisions {
		out.Status.Decisions = append(out.Status.Decisions, datav1alpha1.ApprovalDecision{
			User: d.User, Decision: d.Decision, Comment: d.Comment, At: *timeOf(&d.At),
		})
	}
	switch {
	case view.Request.Details == nil:
	case details:
		out.Spec.Details = jsonOf(view.Request.Details)
	default:
		out.Spec.DetailsHidden = true
	}
	return out
}

func approvalState(view *store.ApprovalView) string {
	if view.State == store.ApprovalOpen && view.Run.Status.Terminal() {
		return datav1alpha1.ApprovalRunEnded
	}
	return string(view.State)
}

func approvalRow(a *datav1alpha1.Approval, now time.Time) metav1.TableRow {
	run := cmp.Or(a.Spec.Object, a.Spec.RunID)
	return metav1.TableRow{
		Cells: []any{
			a.Name, run, a.Spec.Step, a.Spec.Prompt, a.Status.State, fmt.Sprintf("%d/%d", a.Status.Approvals, a.Spec.Required),
			age(a.CreationTimestamp.Time, now), a.Spec.ExpiresAt.UTC().Format(time.RFC3339), a.Spec.WorkflowName, a.Spec.Digest,
		},
		Object: runtime.RawExtension{Object: a},
	}
}
