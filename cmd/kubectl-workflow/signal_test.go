package main

import (
	"testing"
)

func TestSignal_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("signal", "signal", runSeq(3), "approved", "--data", `{"by": "ann"}`, "--idempotency-key", "once")
}

func TestSignal_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.fails(codeError, "accepts 2 arg(s), received 1", "signal", runSeq(3))
	w.fails(codeError, "--data is not JSON", "signal", runSeq(3), "approved", "--data", "{")
	w.fails(codeError, "give --data or --data-file, not both", "signal", runSeq(3), "approved", "--data", "1", "--data-file", "-")
	w.fails(codeError, `the run is Waiting and waits for the signals ["approved"], not for "other"`, "signal", runSeq(3), "other")
	w.fails(codeError, "waits for no signal", "signal", runSeq(2), "approved")
	w.fails(codeError, "name the signal to send", "signal", runSeq(3), "")
}
