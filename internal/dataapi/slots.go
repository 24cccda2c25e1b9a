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
	var newest *shownSlot
	err := s.each(ctx, "", func(db *database) error {
		found, err := db.View(readTimeout).Slot(ctx, uid, slot)
		if found == nil || found.Schedule.Cluster != s.cluster || found.Schedule.Namespace != namespace {
			return err
		}
		o := &shownSlot{*found, []*database{db}}
		if newest == nil || cmp.Or(o.Last.Compare(newest.Last), o.Rank()-newest.Rank()) > 0 {
			newest = o
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if newest == nil {
		return nil, apierrors.NewNotFound(slotResource, name)
	}
	return new(newest.resource()), nil
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
	position, err := parseListPosition[slotKey](o.Continue)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.ScheduleSlotList{Items: []datav1alpha1.ScheduleSlot{}}
	if wanted.none {
		return list, nil
	}
	return list, s.page(ctx, wanted, &position, limitOf(o.Limit), list)
}

// shownSlot is an outcome and the databases that have it, the first of which shows it.
type shownSlot struct {
	store.SlotOutcome
	of []*database
}

// slotKey is what a position has of an outcome beside its time.
type slotKey struct {
	UID  string    `json:"uid"`
	Slot time.Time `json:"slot"`
}

// page adds a page behind the position to the list.
func (s *scheduleSlots) page(ctx context.Context, wanted selectedSlots, position *listPosition[slotKey], limit int, list *datav1alpha1.ScheduleSlotList) error {
	return s.databases.use(ctx, genericapirequest.NamespaceValue(ctx), wanted.backend, func(open []*database) error {
		return pageReads.within(ctx, func() error {
			page, err := readSlots(ctx, open, wanted, position, limit)
			if err != nil {
				return err
			}
			size := store.Truncate(&page, limit)
			for i := range page.Items {
				o := &page.Items[i]
				position.pass(o.Last, slotKey{o.Schedule.UID, o.Slot}, o.of)
				list.Items = append(list.Items, o.resource())
			}
			if page.More {
				list.Continue = position.String()
			}
			return reserveAnswer(ctx, size)
		})
	})
}

// readSlots reads a page of outcomes behind a position. Of a slot that two databases have, as the schedule
// was given another Backend, or as two Backends are one, the final outcome stays.
func readSlots(
	ctx context.Context, open []*database, wanted selectedSlots, position *listPosition[slotKey], limit int,
) (store.ViewPage[shownSlot], error) {
	return readMerged(ctx, open, limit, func(db *database) (store.ViewPage[store.SlotOutcome], error) {
		filter := wanted.SlotFilter
		var after *store.SlotCursor
		if key, at, passed := position.in(db); passed {
			after = &store.SlotCursor{Last: at, UID: key.UID, Slot: key.Slot}
		} else {
			filter.Before = earlier(filter.Before, at)
		}
		return orNone(db.View(readTimeout).Slots(ctx, filter, after, limit))
	}, func(o store.SlotOutcome, db *database) shownSlot {
		return shownSlot{o, []*database{db}}
	}, func(a, b *shownSlot) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(b.Schedule.UID, a.Schedule.UID), b.Slot.Compare(a.Slot))
	}, func(into, same *shownSlot) {
		if same.Rank() > into.Rank() {
			into.SlotOutcome = same.SlotOutcome
			into.of = append(same.of, into.of...)
			return
		}
		into.of = append(into.of, same.of...)
	})
}

// resource returns the resource for a row.
func (o *shownSlot) resource() datav1alpha1.ScheduleSlot {
	out := datav1alpha1.ScheduleSlot{
		ObjectMeta: metav1.ObjectMeta{
			Name: slotName(&o.SlotOutcome), Namespace: o.Schedule.Namespace, UID: types.UID(slotName(&o.SlotOutcome)), CreationTimestamp: *timeOf(&o.RecordedAt),
		},
		Spec:   datav1alpha1.ScheduleSlotSpec{Backend: o.of[0].backend, Schedule: o.Schedule.Name, ScheduleUID: o.Schedule.UID, Time: *timeOf(&o.Slot)},
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
