package store

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// The bounds of the instants that rows are read with. Anybody may write infinity, a year before
// Christ or one of six digits into a row. Such an instant is read as the nearest one that JSON and
// Kubernetes can represent, so that it fails neither its own row nor the batch that is read with it.
var (
	earliest = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// clampingCodec is pgx's codec of timestamptz, with these bounds where a time.Time is read.
type clampingCodec struct{ pgtype.TimestamptzCodec }

// PlanScan implements pgtype.Codec.
func (c *clampingCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*time.Time); !ok {
		return c.TimestamptzCodec.PlanScan(m, oid, format, target)
	}
	plan := c.TimestamptzCodec.PlanScan(m, oid, format, &pgtype.Timestamptz{})
	if plan == nil {
		return nil
	}
	return clampingPlan{plan}
}

type clampingPlan struct{ pgtype.ScanPlan }

var errNullTime = errors.New("cannot scan NULL into *time.Time")

// Scan implements pgtype.ScanPlan.
func (p clampingPlan) Scan(src []byte, target any) error {
	var read pgtype.Timestamptz
	if err := p.ScanPlan.Scan(src, &read); err != nil {
		return err
	}
	if !read.Valid {
		return errNullTime
	}
	*target.(*time.Time) = clamp(read)
	return nil
}

func clamp(t pgtype.Timestamptz) time.Time {
	switch {
	case t.InfinityModifier == pgtype.Infinity, t.InfinityModifier == pgtype.Finite && t.Time.After(latest):
		return latest
	case t.InfinityModifier == pgtype.NegativeInfinity, t.Time.Before(earliest):
		return earliest
	default:
		return t.Time
	}
}
