package openworkflow

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
)

func TestApprovalRequest_TheDigestDependsOnItsContentAlone(t *testing.T) {
	t.Parallel()
	request := func(change func(*ApprovalRequest)) ApprovalRequest {
		r := ApprovalRequest{
			RunID: "run", Step: "ask", Prompt: "Pay <42>?", Required: 1, Details: json.RawMessage(`{"b": [1.50, 2], "a": {"d": 1, "c": null}}`),
			Approvers: Approvers{Users: []string{"ann", "bob"}, Groups: []string{"finance"}},
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	const want = `{"approvers":{"groups":["finance"],"users":["ann","bob"]},"details":{"a":{"c":null,"d":1},"b":[1.50,2]},` +
		`"prompt":"Pay \u003c42\u003e?","required":1,"runID":"run","step":"ask"}`
	text, digest, err := request(nil).Canonical()
	if err != nil || text != want {
		t.Fatalf("text is %s, %v\nwant %s", text, err, want)
	}
	if sum := sha256.Sum256([]byte(want)); digest != hex.EncodeToString(sum[:]) {
		t.Errorf("digest is %s, want the SHA-256 of the text", digest)
	}
	for name, same := range map[string]func(*ApprovalRequest){
		"details in another form": func(r *ApprovalRequest) { r.Details = json.RawMessage(`{"a":{"c":null,"d":1},"b":[1.50,2]}`) },
		"approvers in another order, twice": func(r *ApprovalRequest) {
			r.Approvers.Users = []string{"bob", "ann", "bob"}
		},
	} {
		if _, other, err := request(same).Canonical(); err != nil || other != digest {
			t.Errorf("%s: digest is %s, %v", name, other, err)
		}
	}
	for name, changed := range map[string]func(*ApprovalRequest){
		"run":      func(r *ApprovalRequest) { r.RunID = "fork" },
		"step":     func(r *ApprovalRequest) { r.Step = "ask:1" },
		"prompt":   func(r *ApprovalRequest) { r.Prompt = "Pay 43?" },
		"details":  func(r *ApprovalRequest) { r.Details = json.RawMessage(`{"b": [1.5, 2], "a": {"d": 1, "c": null}}`) },
		"none":     func(r *ApprovalRequest) { r.Details = nil },
		"user":     func(r *ApprovalRequest) { r.Approvers.Users = []string{"ann"} },
		"group":    func(r *ApprovalRequest) { r.Approvers.Groups = nil },
		"required": func(r *ApprovalRequest) { r.Required = 2 },
	} {
		if _, other, err := request(changed).Canonical(); err != nil || other == digest {
			t.Errorf("another %s: digest is %s, %v; want another one", name, other, err)
		}
	}
}

func TestApprovalRequest_P7_RefusesDetailsThatAreNoJSON(t *testing.T) {
	t.Parallel()
	for details, want := range map[string]string{
		`{"a":`:   "details of the approval: unexpected EOF",
		`{} {}`:   "details of the approval: more than one JSON value",
		`{'a':1}`: "details of the approval: invalid character '\\'' looking for beginning of object key string",
	} {
		if _, _, err := (ApprovalRequest{Details: json.RawMessage(details)}).Canonical(); err == nil || err.Error() != want {
			t.Errorf("details %s: error is %v, want %s", details, err, want)
		}
	}
}

func TestApprovers_Include(t *testing.T) {
	t.Parallel()
	some := Approvers{Users: []string{"ann"}, Groups: []string{"finance"}}
	for _, test := range []struct {
		approvers Approvers
		user      string
		groups    []string
		want      bool
	}{
		{some, "ann", nil, true},
		{some, "bob", []string{"dev", "finance"}, true},
		{some, "bob", []string{"dev"}, false},
		{some, "", []string{"finance"}, false},
		{Approvers{}, "bob", nil, true},
		{Approvers{}, "", nil, true},
	} {
		if got := test.approvers.Include(test.user, test.groups); got != test.want {
			t.Errorf("%+v include %q of %q: %v, want %v", test.approvers, test.user, test.groups, got, test.want)
		}
	}
}
