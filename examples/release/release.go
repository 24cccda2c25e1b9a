package main

import (
	"context"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Release is the input.
type Release struct {
	Version string `json:"version"`
	// SoakSeconds is how long the version stays in staging before anybody is asked.
	SoakSeconds int `json:"soakSeconds,omitempty"`
	// Approvers may approve or deny. Empty means everybody who may create a WorkflowSignal.
	Approvers []string `json:"approvers,omitempty"`
}

// Result is the output.
type Result struct {
	// Status is released, denied or expired.
	Status string `json:"status"`
	// By are the users who have decided, and Comments what they have said.
	By       []string `json:"by,omitempty"`
	Comments []string `json:"comments,omitempty"`
}

// Cluster is where versions are deployed.
type Cluster interface {
	// Deploy deploys a version to an environment, once for each key.
	Deploy(ctx context.Context, key, environment, version string) error
}

// answerTime is how long the approvers have to answer.
const answerTime = 48 * time.Hour

// ReleaseWorkflow returns the workflow "release". It deploys a version to staging, lets it soak, asks
// for approval, and deploys it to production.
func ReleaseWorkflow(cluster Cluster) *workflow.Workflow[Release, Result] {
	deploy := func(ctx context.Context, environment, version string) error {
		_, err := step.Run(ctx, environment, func(ctx context.Context) (any, error) {
			return nil, cluster.Deploy(ctx, workflow.Info(ctx).ID+" "+environment, environment, version)
		})
		return err
	}
	return workflow.Define("release", func(ctx context.Context, in Release) (Result, error) {
		if err := deploy(ctx, "staging", in.Version); err != nil {
			return Result{}, err
		}
		if err := step.Sleep(ctx, "soak", time.Duration(in.SoakSeconds)*time.Second); err != nil {
			return Result{}, err
		}
		approval, err := step.WaitForApproval(ctx, "release", step.ApprovalOptions{
			Prompt:       "Release " + in.Version + "?",
			Details:      map[string]string{"version": in.Version},
			Users:        in.Approvers,
			ExpiresAfter: answerTime,
		})
		if err != nil {
			return Result{}, err
		}
		result := Result{Status: "released"}
		for _, d := range approval.Decisions {
			result.By, result.Comments = append(result.By, d.User), append(result.Comments, d.Comment)
		}
		switch {
		case approval.Outcome == step.Expired:
			result.Status = "expired"
		case !approval.Approved:
			result.Status = "denied"
		}
		if !approval.Approved {
			return result, nil
		}
		return result, deploy(ctx, "production", in.Version)
	})
}
