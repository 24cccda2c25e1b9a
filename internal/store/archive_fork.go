package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// lockArchivedSQL keeps the run's entry in the index until the fork is written. It waits for no
// lock, as Fork is repeated. Primary key.
const lockArchivedSQL = findArchivedSQL + `
FOR NO KEY UPDATE OF i NOWAIT`

// supersedeArchivedSQL notes the fork of an archived run, as linkForkSQL does in a row. Primary key.
const supersedeArchivedSQL = `
UPDATE {schema}.operator_archived_runs i SET superseded_by = $3 WHERE i.namespace_id = $1 AND i.run_id = $2`

// forkText is the length of the step attempts that are copied from an archive at once, or one
// attempt.
const forkText = 1 << 20

// archivedSource reads a fork's source and its history from the archive. It keeps the history
// without contexts and outputs, and of errors what forkHistorySQL reads.
func (s *Store) archivedSource(ctx context.Context, tx pgx.Tx, id string) (*forkSource, error) {
	rows, err := tx.Query(ctx, s.sql(lockArchivedSQL), s.namespace, id)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectExactlyOneRow(rows, scanArchived)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, forkSourceMissing(id)
	}
	if err != nil {
		return nil, err
	}
	found.id = id
	source := &forkSource{archived: &found, limits: s.forkLimits}
	err = found.lines(s.partsIn(ctx, tx, &found), func(line []byte) (more bool, err error) {
		if !bytes.HasPrefix(line, stepLine) {
			source.run, err = found.decodeRun(line, true)
			return true, err
		}
		if source.run == nil {
			return false, archiveError("archive %s has no run %s before its step attempts", found.archive, id)
		}
		step, _, err := found.decodeStep(line, true)
		if err != nil {
			return false, err
		}
		step.Context, step.Output, step.Error = nil, nil, shownFailure(&step)
		return true, source.add(step)
	})
	return source, err
}

// partsIn reads the parts of an archive in a transaction.
func (s *Store) partsIn(ctx context.Context, tx pgx.Tx, a *archivedRun) func(from int) ([][]byte, error) {
	return func(from int) ([][]byte, error) {
		rows, err := tx.Query(ctx, s.sql(archivePartsSQL), s.namespace, a.archive, from, archivePage)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[[]byte])
	}
}

// shownFailure returns what shownError reads of the error of a failed attempt. The rest may be long.
func shownFailure(step *openworkflow.StepAttempt) json.RawMessage {
	switch {
	case step.Status != openworkflow.StepFailed:
		return nil
	case len(step.Error) <= longestShown:
		return step.Error
	}
	e := openworkflow.DecodeError(step.Error)
	return openworkflow.Error{Name: beginningOf(e.Name), Message: beginningOf(e.Message)}.Encode()
}

// beginningOf is shownText.
func beginningOf(text string) string {
	runes := []rune(text[:min(len(text), longestText*utf8.UTFMax)])
	return string(runes[:min(len(runes), longestText)])
}

// copyArchived copies attempts from the archive to the new run, as copyStepsSQL does from the table.
func (s *Store) copyArchived(ctx context.Context, tx pgx.Tx, source *forkSource, runID string, copies []ForkCopy) error {
	wanted := make(map[string]ForkCopy, len(copies))
	for _, c := range copies {
		wanted[c.AttemptID] = c
	}
	var batch []ForkCopy
	text := []byte{'['}
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		var b sqlBatch
		s.queueCopies(&b, copyArchivedSQL, runID, batch, string(append(text, ']')))
		batch, text = nil, []byte{'['}
		return tx.SendBatch(ctx, &b.Batch).Close()
	}
	err := source.archived.lines(s.partsIn(ctx, tx, source.archived), func(line []byte) (more bool, err error) {
		if !bytes.HasPrefix(line, stepLine) {
			return true, nil
		}
		step, row, err := source.archived.decodeStep(line, false)
		if c, ok := wanted[step.ID]; ok && err == nil {
			if len(batch) > 0 {
				text = append(text, ',')
			}
			batch, text = append(batch, c), append(text, row...)
			if len(text) >= forkText {
				err = send()
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	if err := send(); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.sql(supersedeArchivedSQL), s.namespace, source.archived.id, runID)
	return err
}
