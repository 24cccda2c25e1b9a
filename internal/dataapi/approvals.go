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

// maxRunApprovals is how many approvals of a run are read.
const maxRunApprovals = 1000

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
		views, err := db.View(readTimeout).ApprovalsOf(ctx, name[:dot], maxRunApprovals)
		for i := range views {
			if found == nil && approvalName(&views[i]) == name {
				found = s.approvalOf(ctx, &views[i], db.backend, details)
			}
		}
		return err
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

// List returns those that are open, oldest first or, of one run, all.
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
	after, err := parseApprovalPosition(o.Continue)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.ApprovalList{Items: []datav1alpha1.Approval{}}
	if filter.none {
		return list, nil
	}
	limit := min(limitOf(o.Limit), maxApprovals)
	return list, withPayloads(ctx, func() error { return s.page(ctx, filter, after, limit, list) })
}

// shownApproval is an approval and the Backend that holds it.
type shownApproval struct {
	store.ApprovalView
	backend string
}

// page adds a page to the list, merged from the databases.
func (s *approvals) page(ctx context.Context, filter approvalFilter, after *store.ApprovalCursor, limit int, list *datav1alpha1.ApprovalList) error {
	details, err := s.may(ctx, "approvals", "details", "")
	if err != nil {
		return err
	}
	var all []shownApproval
	err = s.each(ctx, filter.backend, func(db *database) (err error) {
		var views []store.ApprovalView
		if filter.runID != "" {
			views, err = db.View(readTimeout).ApprovalsOf(ctx, filter.runID, maxApprovals)
		} else {
			views, err = db.View(readTimeout).OpenApprovals(ctx, after, limit+1)
		}
		for i := range views {
			all = append(all, shownApproval{views[i], db.backend})
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b shownApproval) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Run.ID, b.Run.ID), strings.Compare(a.Step, b.Step))
	})
	all = slices.CompactFunc(all, func(a, b shownApproval) bool { return a.Run.ID == b.Run.ID && a.Step == b.Step })
	if filter.runID == "" && len(all) > limit {
		all = all[:limit]
		last := &all[limit-1]
		list.Continue = encodePosition(approvalPosition{last.CreatedAt, last.Run.ID, last.Step})
	}
	for i := range all {
		list.Items = append(list.Items, *s.approvalOf(ctx, &all[i].ApprovalView, all[i].backend, details))
	}
	return nil
}

// approvalPosition is where a page of approvals ends, as the text of continue.
type approvalPosition struct {
	CreatedAt time.Time `json:"t"`
	RunID     string    `json:"run"`
	Step      string    `json:"step"`
}

// parseApprovalPosition returns nil for no position.
func parseApprovalPosition(text string) (*store.ApprovalCursor, error) {
	if text == "" {
		return nil, nil
	}
	p, err := decodePosition(text, func(p approvalPosition) bool { return p.RunID != "" })
	if err != nil {
		return nil, err
	}
	return &store.ApprovalCursor{CreatedAt: p.CreatedAt, RunID: p.RunID, Step: p.Step}, nil
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
			Required: int32(min(max(view.Request.Required, 1), maxRunApprovals)), Digest: view.Digest,
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
