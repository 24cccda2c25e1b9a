package store

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ErrArchive means that an archive cannot be read: it is damaged, or of a later release.
var ErrArchive = errors.New("archive cannot be read")

func archiveError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrArchive, fmt.Sprintf(format, args...))
}

// archivePage is the number of parts that are read at once.
const archivePage = 8

// archiveLine is a line of an archive. It has one of the members.
type archiveLine struct {
	Archive *archiveHeader  `json:"archive,omitempty"`
	Run     json.RawMessage `json:"run,omitempty"`
	Step    json.RawMessage `json:"step,omitempty"`
}

// archiveHeader is the first line.
type archiveHeader struct {
	Version int `json:"version"`
	Runs    int `json:"runs"`
}

// The beginnings of lines, as Postgres writes them.
var runLine, stepLine = []byte(`{"run":`), []byte(`{"step":`)

// findArchivedSQL finds the archive of a run. Primary keys.
const findArchivedSQL = `
SELECT c.id, c.archived_at, c.version, c.sha256, i.position, coalesce(i.parent_run_id, ''), i.superseded_by
FROM {schema}.operator_archived_runs i
JOIN {schema}.operator_archives c ON c.namespace_id = i.namespace_id AND c.id = i.archive_id
WHERE i.namespace_id = $1 AND i.run_id = $2`

// archivePartsSQL reads a page of the parts of an archive in their order. Primary key.
const archivePartsSQL = `
SELECT p.data
FROM {schema}.operator_archive_parts p
WHERE p.namespace_id = $1 AND p.archive_id = $2 AND p.part >= $3
ORDER BY p.part
LIMIT $4`

// archivedChildrenSQL returns the children of a run that are archived, by the attempts that
// started them: their removal has cleared the link in the attempt's row. It reads
// operator_archived_runs_parent_idx.
const archivedChildrenSQL = `
SELECT i.parent_step_attempt_id, i.run_id
FROM {schema}.operator_archived_runs i
WHERE i.namespace_id = $1 AND i.parent_run_id = $2
LIMIT $3`

// archivedRun says where an archived run is.
type archivedRun struct {
	id           string // of the run
	archive      string
	at           time.Time
	version      int
	sum          []byte
	position     int
	parent       string
	supersededBy *string
}

func scanArchived(row pgx.CollectableRow) (a archivedRun, err error) {
	err = row.Scan(&a.archive, &a.at, &a.version, &a.sum, &a.position, &a.parent, &a.supersededBy)
	return a, err
}

// lines calls f with the run's row, then with those of its attempts, oldest first, as long as f
// returns true. Each line is valid until f returns. It reads all of the archive, and returns an
// error if its checksum is another. Query reads parts.
func (a *archivedRun) lines(query func(from int) ([][]byte, error), f func(line []byte) (more bool, err error)) error {
	if a.version != archiveVersion {
		return archiveError("archive %s has version %d of the format, this release knows %d", a.archive, a.version, archiveVersion)
	}
	sum := sha256.New()
	parts := io.TeeReader(&partReader{query: query}, sum)
	compressed, err := gzip.NewReader(parts)
	if err != nil {
		return a.damaged(err)
	}
	text := bufio.NewReaderSize(io.LimitReader(compressed, maxArchivedRun+maxArchivedRow), 64<<10)
	found, err := a.run(text, f)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, text); err != nil {
		return a.damaged(err)
	}
	if _, err := io.Copy(io.Discard, parts); err != nil {
		return a.damaged(err)
	}
	if !bytes.Equal(sum.Sum(nil), a.sum) {
		return archiveError("archive %s has another checksum than when it was made", a.archive)
	}
	if !found {
		return archiveError("archive %s has no run %d", a.archive, a.position)
	}
	return nil
}

// damaged wraps what has gone wrong with the content, but not an error of the database.
func (a *archivedRun) damaged(err error) error {
	if _, ok := errors.AsType[*partError](err); ok {
		return err
	}
	return archiveError("archive %s: %v", a.archive, err)
}

// run passes the lines of the other runs, without keeping them.
func (a *archivedRun) run(text *bufio.Reader, f func(line []byte) (more bool, err error)) (found bool, err error) {
	var line []byte
	for at := -1; ; {
		head, err := text.Peek(len(stepLine))
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, a.damaged(err)
		}
		if bytes.HasPrefix(head, runLine) {
			at++
		}
		wanted := at == a.position && (bytes.HasPrefix(head, runLine) || bytes.HasPrefix(head, stepLine))
		if line, err = readLine(text, line[:0], wanted); err != nil {
			return found, a.damaged(err)
		}
		if at > a.position {
			return found, nil
		}
		if !wanted {
			continue
		}
		found = true
		if more, err := f(line); err != nil || !more {
			return found, err
		}
	}
}

// readLine reads a line into the buffer, or passes it.
func readLine(text *bufio.Reader, line []byte, keep bool) ([]byte, error) {
	for {
		part, err := text.ReadSlice('\n')
		if keep {
			if len(line)+len(part) > maxArchivedRow+archiveChunk {
				return nil, errors.New("a line is too long")
			}
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// partReader reads the parts of an archive as one content.
type partReader struct {
	query func(from int) ([][]byte, error)
	parts [][]byte
	next  int
}

// partError is an error of the database.
type partError struct{ error }

func (e *partError) Unwrap() error { return e.error }

// Read implements io.Reader.
func (r *partReader) Read(p []byte) (int, error) {
	for len(r.parts) > 0 && len(r.parts[0]) == 0 {
		r.parts = r.parts[1:]
	}
	if len(r.parts) == 0 {
		parts, err := r.query(r.next)
		if err != nil {
			return 0, &partError{err}
		}
		r.parts, r.next = parts, r.next+len(parts)
		if len(parts) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(p, r.parts[0])
	r.parts[0] = r.parts[0][n:]
	return n, nil
}

// Archived is a run that was archived and removed.
type Archived struct {
	view *View
	archivedRun
}

// Archived finds a run in the archives, nil if it is in none.
func (v *View) Archived(ctx context.Context, id string) (*Archived, error) {
	if !storableID(id) {
		return nil, nil
	}
	var found *Archived
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		run, err := scanArchived(row)
		run.id = id
		found = &Archived{view: v, archivedRun: run}
		return err
	}, v.store.sql(findArchivedSQL), v.store.namespace, id)
	return found, Classify(err)
}

// archivedRunTimeout bounds one statement of ArchivedRun.
const archivedRunTimeout = 10 * time.Second

// ArchivedRun returns a run that was archived and removed, without input, output and context, nil
// if it is in no archive.
func (s *Store) ArchivedRun(ctx context.Context, id string) (*openworkflow.Run, error) {
	found, err := s.View(archivedRunTimeout).Archived(ctx, id)
	if err != nil || found == nil {
		return nil, err
	}
	run, err := found.Run(ctx, false)
	if err != nil {
		return nil, err
	}
	return &run.Run, nil
}

// lines is that of archivedRun, by transactions of the view.
func (a *Archived) lines(ctx context.Context, f func(line []byte) (more bool, err error)) error {
	return Classify(a.archivedRun.lines(func(from int) (parts [][]byte, err error) {
		err = a.view.read(ctx, func(row pgx.CollectableRow) error {
			part, err := pgx.RowTo[[]byte](row)
			parts = append(parts, part)
			return err
		}, a.view.store.sql(archivePartsSQL), a.view.store.namespace, a.archive, from, archivePage)
		return parts, err
	}, f))
}

// Run returns the run. Without payloads it is as View.Run returns one, with them as View.FullRun.
// It keeps one row in memory, of at most 16 MiB.
func (a *Archived) Run(ctx context.Context, payloads bool) (*RunView, error) {
	var run *openworkflow.Run
	if err := a.lines(ctx, func(line []byte) (more bool, err error) {
		run, err = a.decodeRun(line, payloads)
		return false, err
	}); err != nil {
		return nil, err
	}
	return &RunView{Run: *run, ParentRunID: a.parent, ArchivedAt: &a.at}, nil
}

// Steps returns a page of the run's step attempts as View.Steps does without payloads. The links to
// archived child runs are those from before the removal.
func (a *Archived) Steps(ctx context.Context, after *openworkflow.Cursor, limit int) ([]openworkflow.StepAttempt, error) {
	steps, _, err := a.steps(ctx, false, after, limit)
	return steps, err
}

// BoundedSteps is Steps with payloads. Its pages are those of View.BoundedSteps.
func (a *Archived) BoundedSteps(ctx context.Context, after *openworkflow.Cursor, limit int) (steps []openworkflow.StepAttempt, more bool, err error) {
	return a.steps(ctx, true, after, limit)
}

func (a *Archived) steps(ctx context.Context, payloads bool, after *openworkflow.Cursor, limit int) (steps []openworkflow.StepAttempt, more bool, err error) {
	children := map[string]string{}
	if err := a.view.read(ctx, func(row pgx.CollectableRow) error {
		var attempt, child string
		err := row.Scan(&attempt, &child)
		children[attempt] = child
		return err
	}, a.view.store.sql(archivedChildrenSQL), a.view.store.namespace, a.id, maxArchivedChildren); err != nil {
		return nil, false, Classify(err)
	}
	size, passed := 0, after == nil
	err = a.lines(ctx, func(line []byte) (bool, error) {
		if !bytes.HasPrefix(line, stepLine) {
			return true, nil
		}
		step, _, err := a.decodeStep(line, payloads)
		if err != nil {
			return false, err
		}
		if child, ok := children[step.ID]; ok && step.ChildWorkflowRunID == nil {
			step.ChildWorkflowRunID = &child
		}
		// The lines have the order of the database, which of two ids of one time only its collation knows.
		if passed = passed || step.CreatedAt.After(after.CreatedAt); !passed {
			passed = step.ID == after.ID
			return true, nil
		}
		if payloads {
			size += len(step.Context) + len(step.Output) + len(step.Error)
		}
		if more = len(steps) == limit || size > payloadPage && len(steps) > 0; !more {
			steps = append(steps, step)
		}
		return !more, nil
	})
	return steps, more, err
}

// maxArchivedChildren bounds the children of a run that are looked up for its steps.
const maxArchivedChildren = 10_000
