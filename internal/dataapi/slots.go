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
	_ rest.Getter               = &scheduleSlots{}
	_ rest.Lister               = &scheduleSlots{}
	_ rest.Scoper               = &scheduleSlots{}
	_ rest.SingularNameProvider = &scheduleSlots{}
)

// scheduleSlots serves the resource scheduleslots: what has happened to the slots of the namespace's
// WorkflowSchedules, also of those that are deleted.
type scheduleSlots struct {
	reader
	tables
}

func (*scheduleSlots) New() runtime.Object     { return &datav1alpha1.ScheduleSlot{} }
func (*scheduleSlots) NewList() runtime.Object { return &datav1alpha1.ScheduleSlotList{} }
func (*scheduleSlots) Destroy()                {}
func (*scheduleSlots) NamespaceScoped() bool   { return true }
func (*scheduleSlots) GetSingularName() string { return "scheduleslot" }

var slotResource = schema.GroupResource{Group: datav1alpha1.GroupVersion.Group, Resource: "scheduleslots"}

// slotTime is how the name of a slot says its time, in UTC.
const slotTime = "20060102-150405"

// slotName names a slot.
func slotName(o *store.SlotOutcome) string {
	return o.Schedule.UID + "." + o.Slot.UTC().Format(slotTime)
}

// parseSlotName is the inverse of slotName.
func parseSlotName(name string) (uid string, slot time.Time, ok bool) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return "", slot, false
	}
	slot, err := time.Parse(slotTime, name[dot+1:])
	return name[:dot], slot, err == nil
}

// Get returns the outcome of the slot of this name, or of several that begin with it.
func (s *scheduleSlots) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	uid, slot, ok := parseSlotName(name)
	if !ok {
		return nil, apierrors.NewNotFound(slotResource, name)
	}
	var all []shownSlot
	err := s.each(ctx, "", func(db *database) error {
		found, err := db.View(readTimeout).Slot(ctx, uid, slot)
		if found != nil && found.Schedule.Cluster == s.cluster && found.Schedule.Namespace == namespace {
			all = append(all, shownSlot{*found, db.backend})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if all = mergeSlots(all); len(all) == 0 {
		return nil, apierrors.NewNotFound(slotResource, name)
	}
	return new(all[0].resource()), nil
}

// slotFields are the fields by which slots can be selected.
var slotFields = []string{
	datav1alpha1.FieldSchedule, datav1alpha1.FieldScheduleUID, datav1alpha1.FieldBackend,
	datav1alpha1.FieldSlotFrom, datav1alpha1.FieldSlotBefore, "metadata.namespace",
}

// convertSlotField is convertField for slots.
func convertSlotField(label, value string) (string, string, error) {
	if !slices.Contains(slotFields, label) {
		return "", "", fmt.Errorf("scheduleslots cannot be selected by %q: use one of %s", label, strings.Join(slotFields, ", "))
	}
	return label, value, nil
}

// selectedSlots is what a field selector asks for.
type selectedSlots struct {
	store.SlotFilter
	backend string
	// none says that no slot can match.
	none bool
}

// parseSlotSelector turns a field selector into a filter.
func parseSlotSelector(selector fields.Selector, cluster, namespace string) (f selectedSlots, err error) {
	f.Cluster, f.Namespace = cluster, namespace
	if selector == nil {
		return f, nil
	}
	for _, r := range selector.Requirements() {
		if r.Operator != selection.Equals && r.Operator != selection.DoubleEquals {
			return f, apierrors.NewBadRequest(fmt.Sprintf("%s%s%s: scheduleslots are selected by =", r.Field, r.Operator, r.Value))
		}
		switch r.Field {
		case datav1alpha1.FieldSchedule:
			f.Schedule = r.Value
		case datav1alpha1.FieldScheduleUID:
			f.UID = r.Value
		case datav1alpha1.FieldBackend:
			f.backend = r.Value
		case datav1alpha1.FieldSlotFrom:
			f.From, err = parseSelectedTime(r.Field, r.Value)
		case datav1alpha1.FieldSlotBefore:
			f.Before, err = parseSelectedTime(r.Field, r.Value)
		case "metadata.namespace":
			f.none = f.none || r.Value != namespace
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// List returns a page of slots, newest first.
func (s *scheduleSlots) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if o == nil {
		o = &internalversion.ListOptions{}
	}
	if err := plainList("scheduleslots", namespace, nil); err != nil {
		return nil, err
	}
	if o.LabelSelector != nil && !o.LabelSelector.Empty() {
		return nil, apierrors.NewBadRequest("scheduleslots have no labels: select them by fields")
	}
	wanted, err := parseSlotSelector(o.FieldSelector, s.cluster, namespace)
	if err != nil {
		return nil, err
	}
	after, err := parseSlotPosition(o.Continue)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.ScheduleSlotList{Items: []datav1alpha1.ScheduleSlot{}}
	if wanted.none {
		return list, nil
	}
	return list, s.page(ctx, wanted, after, limitOf(o.Limit), list)
}

// shownSlot is an outcome and the Backend that holds it.
type shownSlot struct {
	store.SlotOutcome
	backend string
}

// page adds a page to the list, merged from the databases.
func (s *scheduleSlots) page(ctx context.Context, wanted selectedSlots, after *store.SlotCursor, limit int, list *datav1alpha1.ScheduleSlotList) error {
	var all []shownSlot
	err := s.each(ctx, wanted.backend, func(db *database) error {
		found, err := db.View(readTimeout).Slots(ctx, wanted.SlotFilter, after, limit+1)
		for i := range found {
			all = append(all, shownSlot{found[i], db.backend})
		}
		return err
	})
	if err != nil {
		return err
	}
	if all = mergeSlots(all); len(all) > limit {
		all = all[:limit]
		last := &all[limit-1]
		list.Continue = encodePosition(slotPosition{last.Last, last.Schedule.UID, last.Slot})
	}
	for i := range all {
		list.Items = append(list.Items, all[i].resource())
	}
	return nil
}

// mergeSlots sorts outcomes, newest first. Of a slot that two databases have, as the schedule was given
// another Backend, or as two Backends are one, the final outcome stays.
func mergeSlots(all []shownSlot) []shownSlot {
	slices.SortStableFunc(all, func(a, b shownSlot) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(b.Schedule.UID, a.Schedule.UID), b.Slot.Compare(a.Slot), b.Rank()-a.Rank())
	})
	return slices.CompactFunc(all, func(a, b shownSlot) bool {
		return a.Last.Equal(b.Last) && a.Schedule.UID == b.Schedule.UID && a.Slot.Equal(b.Slot)
	})
}

// slotPosition is where a page of slots ends, as the text of continue.
type slotPosition struct {
	Last time.Time `json:"t"`
	UID  string    `json:"uid"`
	Slot time.Time `json:"slot"`
}

// parseSlotPosition returns nil for no position.
func parseSlotPosition(text string) (*store.SlotCursor, error) {
	if text == "" {
		return nil, nil
	}
	p, err := decodePosition(text, func(p slotPosition) bool { return !p.Slot.IsZero() })
	if err != nil {
		return nil, err
	}
	return &store.SlotCursor{Last: p.Last, UID: p.UID, Slot: p.Slot}, nil
}

// resource returns the resource for a row.
func (o *shownSlot) resource() datav1alpha1.ScheduleSlot {
	out := datav1alpha1.ScheduleSlot{
		ObjectMeta: metav1.ObjectMeta{
			Name: slotName(&o.SlotOutcome), Namespace: o.Schedule.Namespace, UID: types.UID(slotName(&o.SlotOutcome)), CreationTimestamp: *timeOf(&o.RecordedAt),
		},
		Spec:   datav1alpha1.ScheduleSlotSpec{Backend: o.backend, Schedule: o.Schedule.Name, ScheduleUID: o.Schedule.UID, Time: *timeOf(&o.Slot)},
		Status: datav1alpha1.ScheduleSlotStatus{Reason: o.Reason, Run: o.Run, Message: o.Message, RecordedAt: *timeOf(&o.RecordedAt)},
	}
	if o.Last.After(o.Slot) {
		out.Spec.Until, out.Spec.Count = timeOf(&o.Last), int32(o.Slots)
	}
	return out
}

func slotRow(s *datav1alpha1.ScheduleSlot) metav1.TableRow {
	until, count := "", int64(1)
	if s.Spec.Until != nil {
		until, count = s.Spec.Until.UTC().Format(time.RFC3339), int64(s.Spec.Count)
	}
	return metav1.TableRow{
		Cells: []any{
			s.Spec.Schedule, s.Spec.Time.UTC().Format(time.RFC3339), until, count, s.Status.Reason, s.Status.Run, s.Status.Message, s.Spec.Backend, s.Name,
		},
		Object: runtime.RawExtension{Object: s},
	}
}
