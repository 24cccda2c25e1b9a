package store

import (
	"encoding/json"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// archivedRunRow has the columns of a run in an archive.
type archivedRunRow struct {
	NamespaceID         string          `json:"namespace_id"`
	ID                  string          `json:"id"`
	WorkflowName        string          `json:"workflow_name"`
	Version             *string         `json:"version"`
	Status              string          `json:"status"`
	IdempotencyKey      *string         `json:"idempotency_key"`
	Config              json.RawMessage `json:"config"`
	Context             json.RawMessage `json:"context"`
	Input               json.RawMessage `json:"input"`
	Output              json.RawMessage `json:"output"`
	Error               json.RawMessage `json:"error"`
	Attempts            int             `json:"attempts"`
	ParentStepAttemptID *string         `json:"parent_step_attempt_id"`
	WorkerID            *string         `json:"worker_id"`
	AvailableAt         *archivedTime   `json:"available_at"`
	DeadlineAt          *archivedTime   `json:"deadline_at"`
	StartedAt           *archivedTime   `json:"started_at"`
	FinishedAt          *archivedTime   `json:"finished_at"`
	CreatedAt           archivedTime    `json:"created_at"`
	UpdatedAt           archivedTime    `json:"updated_at"`
}

// archivedConfig is what of the config an ended run is shown with.
type archivedConfig struct {
	ForkedFrom   archivedText `json:"openworkflow.dev/forkedFrom"`
	ForkStep     archivedText `json:"openworkflow.dev/forkStep"`
	SupersededBy archivedText `json:"openworkflow.dev/supersededBy"`
}

// archivedStepRow has the columns of a step attempt in an archive.
type archivedStepRow struct {
	NamespaceID        string          `json:"namespace_id"`
	ID                 string          `json:"id"`
	WorkflowRunID      string          `json:"workflow_run_id"`
	StepName           string          `json:"step_name"`
	Kind               string          `json:"kind"`
	Status             string          `json:"status"`
	Context            json.RawMessage `json:"context"`
	Output             json.RawMessage `json:"output"`
	Error              json.RawMessage `json:"error"`
	ChildWorkflowRunID *string         `json:"child_workflow_run_id"`
	StartedAt          *archivedTime   `json:"started_at"`
	FinishedAt         *archivedTime   `json:"finished_at"`
	CreatedAt          archivedTime    `json:"created_at"`
	UpdatedAt          archivedTime    `json:"updated_at"`
}

// archivedText is a text of the config. A value of another type counts as absent.
type archivedText struct{ text *string }

// UnmarshalJSON implements json.Unmarshaler.
func (t *archivedText) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil && string(raw) != "null" {
		t.text = &text
	}
	return nil
}

// archivedTime is an instant, within the bounds of those that rows are read with.
type archivedTime struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler. Years before 1 or after 9999, which Go does not parse,
// are the nearest instant.
func (t *archivedTime) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	read := pgtype.Timestamptz{Valid: true}
	parsed, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err == nil:
		read.Time = parsed
	case text == "-infinity" || strings.HasSuffix(text, " BC"):
		read.InfinityModifier = pgtype.NegativeInfinity
	case text == "infinity" || strings.IndexByte(text, '-') > 4:
		read.InfinityModifier = pgtype.Infinity
	default:
		return err
	}
	t.Time = clamp(read).UTC()
	return nil
}

func (t *archivedTime) time() *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}

// decodeRun returns the run of a line.
func (a *archivedRun) decodeRun(line []byte, payloads bool) (*openworkflow.Run, error) {
	var l archiveLine
	var row archivedRunRow
	err := json.Unmarshal(line, &l)
	if err == nil {
		err = json.Unmarshal(l.Run, &row)
	}
	if err != nil || row.ID != a.id {
		return nil, archiveError("archive %s does not have run %s at place %d", a.archive, a.id, a.position)
	}
	var config archivedConfig
	_ = json.Unmarshal(row.Config, &config) // one that is no object has nothing
	run := &openworkflow.Run{
		NamespaceID: row.NamespaceID, ID: row.ID, WorkflowName: row.WorkflowName, Version: row.Version,
		Status: openworkflow.RunStatus(row.Status), IdempotencyKey: row.IdempotencyKey,
		Attempts: row.Attempts, ParentStepAttemptID: row.ParentStepAttemptID, WorkerID: row.WorkerID,
		AvailableAt: row.AvailableAt.time(), DeadlineAt: row.DeadlineAt.time(), StartedAt: row.StartedAt.time(), FinishedAt: row.FinishedAt.time(),
		CreatedAt: row.CreatedAt.Time, UpdatedAt: row.UpdatedAt.Time,
		ForkedFrom: config.ForkedFrom.text, ForkStep: config.ForkStep.text, SupersededBy: config.SupersededBy.text,
	}
	if a.supersededBy != nil {
		run.SupersededBy = a.supersededBy
	}
	if payloads {
		run.Input, run.Output, run.Error = openworkflow.Column(row.Input), openworkflow.Column(row.Output), openworkflow.Column(row.Error)
		run.Context = openworkflow.Column(row.Context)
	} else {
		run.Context, run.Error = onlyReferences(row.Context), onlyName(row.Error)
	}
	return run, nil
}

// onlyReferences returns a context with what names the run's object and its schedule, nil for neither.
func onlyReferences(raw json.RawMessage) json.RawMessage {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	maps.DeleteFunc(all, func(key string, _ json.RawMessage) bool { return key != "kubernetes" && key != "schedule" })
	if len(all) == 0 {
		return nil
	}
	out, err := json.Marshal(all)
	if err != nil { // what was unmarshaled marshals
		panic(err)
	}
	return out
}

// decodeStep returns the step attempt of a line, and its row as it is in the archive.
func (a *archivedRun) decodeStep(line []byte, payloads bool) (step openworkflow.StepAttempt, row json.RawMessage, err error) {
	var l archiveLine
	var r archivedStepRow
	if err = json.Unmarshal(line, &l); err == nil {
		err = json.Unmarshal(l.Step, &r)
	}
	if err != nil || r.WorkflowRunID != a.id {
		return step, nil, archiveError("archive %s has something else than a step attempt of run %s", a.archive, a.id)
	}
	step = openworkflow.StepAttempt{
		NamespaceID: r.NamespaceID, ID: r.ID, WorkflowRunID: r.WorkflowRunID, StepName: r.StepName,
		Kind: openworkflow.StepKind(r.Kind), Status: openworkflow.StepStatus(r.Status), Context: openworkflow.Column(r.Context),
		ChildWorkflowRunID: r.ChildWorkflowRunID, StartedAt: r.StartedAt.time(), FinishedAt: r.FinishedAt.time(),
		CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
	}
	if payloads {
		step.Output, step.Error = openworkflow.Column(r.Output), openworkflow.Column(r.Error)
	} else {
		step.Error = onlyName(r.Error)
	}
	return step, l.Step, nil
}

// onlyName returns an error with its name only, nil for none.
func onlyName(raw json.RawMessage) json.RawMessage {
	var named struct {
		Name archivedText `json:"name"`
	}
	if json.Unmarshal(raw, &named) != nil || named.Name.text == nil {
		return nil
	}
	const longest = 253 // as viewColumns
	name := []rune(*named.Name.text)
	out, err := json.Marshal(map[string]string{"name": string(name[:min(len(name), longest)])})
	if err != nil { // texts always marshal
		panic(err)
	}
	return out
}
