package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// maxPageBytes is how many bytes of texts a page has, but for its last item. A run has some hundred of
// them, unless somebody has written large ones.
const maxPageBytes = 2 << 20

// ViewPage is a part of a sorted list. It may have fewer items than were asked for although there are
// more, as their texts are long.
type ViewPage[T any] struct {
	Items []T
	// More says that there are more items behind these.
	More bool
}

// ViewItem is an item of a list. Size returns how many bytes of texts it has.
type ViewItem[T any] interface {
	*T
	Size() int
}

// Truncate ends a page after limit items, or earlier if their texts are long. It returns their size.
func Truncate[T any, P ViewItem[T]](p *ViewPage[T], limit int) (size int) {
	for i := range p.Items {
		if i == limit || size > maxPageBytes {
			clear(p.Items[i:]) // they may be large
			p.Items, p.More = p.Items[:i], true
			return size
		}
		size += P(&p.Items[i]).Size()
	}
	return size
}

// readPage reads a page. The query returns one row more than the limit, if there is one. Rows behind
// the end of the page are not kept.
func readPage[T any, P ViewItem[T]](
	ctx context.Context, v *View, limit int, scan func(pgx.CollectableRow) (T, error), sql string, args []any,
) (page ViewPage[T], err error) {
	size := 0
	err = v.read(ctx, func(row pgx.CollectableRow) error {
		if page.More = page.More || len(page.Items) == limit || size > maxPageBytes; page.More {
			return nil
		}
		item, err := scan(row)
		page.Items = append(page.Items, item)
		size += P(&item).Size()
		return err
	}, v.store.sql(sql), args...)
	return page, Classify(err)
}

// Size returns how many bytes the texts of the run have.
func (v *RunView) Size() int {
	return len(v.NamespaceID) + len(v.ID) + len(v.WorkflowName) + len(v.Status) + len(v.Context) + len(v.Error) + len(v.ParentRunID) +
		sizeOf(v.Version, v.IdempotencyKey, v.ParentStepAttemptID, v.WorkerID, v.ForkedFrom, v.ForkStep, v.SupersededBy)
}

func sizeOf(texts ...*string) (n int) {
	for _, text := range texts {
		if text != nil {
			n += len(*text)
		}
	}
	return n
}

// Size returns how many bytes the texts of the approval and its run have.
func (v *ApprovalView) Size() int {
	n := v.Run.Size() + len(v.Step) + len(v.Digest) + len(v.OnExpiry) + v.requestSize
	for i := range v.Decisions {
		d := &v.Decisions[i]
		n += len(d.User) + len(d.Comment) + len(d.Key)
	}
	return n
}

// Size returns how many bytes the texts of the outcome have.
func (o *SlotOutcome) Size() int {
	key := &o.Schedule
	return len(key.Cluster) + len(key.Namespace) + len(key.Name) + len(key.UID) + len(o.Reason) + len(o.Run) + len(o.Message)
}

// Size returns how many bytes the texts of the request have.
func (b *BulkRetry) Size() int {
	spec := &b.Spec
	n := len(b.Name) + len(b.UID) + len(b.State) + len(spec.WorkflowName) + len(spec.ErrorName) + sizeOf(spec.Version, spec.Step)
	for i := range b.Failures {
		n += len(b.Failures[i].RunID) + len(b.Failures[i].Message)
	}
	return n
}
