package dataapi

import (
	"context"
	"errors"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// A list of several databases is merged by time. Items of one time have the order of their database,
// whose collation nobody else knows: it sorts, and it continues behind an item.

// readMerged reads a page of each database and merges them into one, which has no more items than each.
// It keeps that one and the page that is being read. In makes an item of the merged list.
func readMerged[V, T any, P store.ViewItem[T]](
	ctx context.Context, open []*database, limit int,
	read func(*database) (store.ViewPage[V], error), in func(V, *database) T, compare func(a, b *T) int, join func(into, same *T),
) (merged store.ViewPage[T], err error) {
	for _, db := range open {
		page, err := read(db)
		if err != nil {
			return merged, answer(ctx, db, err)
		}
		next := store.ViewPage[T]{Items: make([]T, len(page.Items)), More: page.More}
		for i := range page.Items {
			next.Items[i] = in(page.Items[i], db)
		}
		merged = merge(merged, next, compare, join)
		store.Truncate[T, P](&merged, limit)
	}
	return merged, nil
}

// merge merges two pages, each of which stays in its order. It ends where a page ends that has more.
// Items that are equal at the heads of both are one: two Backends that name one database have the same
// list, which stays in step.
func merge[T any](a, b store.ViewPage[T], compare func(a, b *T) int, join func(into, same *T)) (merged store.ViewPage[T]) {
	i, j := 0, 0
	for i < len(a.Items) && j < len(b.Items) {
		switch c := compare(&a.Items[i], &b.Items[j]); {
		case c == 0:
			join(&a.Items[i], &b.Items[j])
			j++
			fallthrough
		case c < 0:
			merged.Items = append(merged.Items, a.Items[i])
			i++
		default:
			merged.Items = append(merged.Items, b.Items[j])
			j++
		}
	}
	if i == len(a.Items) && a.More || j == len(b.Items) && b.More {
		merged.More = true
		return merged
	}
	merged.Items = append(append(merged.Items, a.Items[i:]...), b.Items[j:]...)
	merged.More = a.More || b.More
	return merged
}

// listPosition is where a page of a merged list ends, as the text of continue: at an item of each
// database that has one of the page's last time. The others continue with all of that time.
type listPosition[K any] struct {
	At   time.Time    `json:"t"`
	Last map[string]K `json:"last"`
}

func (p *listPosition[K]) String() string { return encodePosition(p) }

// parseListPosition returns the beginning for no text.
func parseListPosition[K any](text string) (p listPosition[K], err error) {
	if text == "" {
		return p, nil
	}
	return decodePosition(text, func(p listPosition[K]) bool { return len(p.Last) > 0 })
}

// pass moves the position behind an item that these databases have. At is its time.
func (p *listPosition[K]) pass(at time.Time, key K, of []*database) {
	if p.Last == nil || !p.At.Equal(at) {
		p.At, p.Last = at, map[string]K{}
	}
	for _, db := range of {
		p.Last[db.backend] = key
	}
}

// in returns where the list continues in a database: behind the item of this key and time, or if none
// was passed with those of the time. The zero time is the beginning.
func (p *listPosition[K]) in(db *database) (key K, at time.Time, passed bool) {
	key, passed = p.Last[db.backend]
	return key, p.At, passed
}

// orNone makes nothing of a table that is missing: a schema of an earlier release has not all of them.
func orNone[V any](page store.ViewPage[V], err error) (store.ViewPage[V], error) {
	if errors.Is(err, store.ErrSchemaMissing) {
		err = nil
	}
	return page, err
}
