package wake

import "testing"

func TestWakeUpsBeforeAReceiveBecomeOne(t *testing.T) {
	f := New()
	f.Set()
	f.Set()
	<-f
	select {
	case <-f:
		t.Fatal("the second wake-up was kept")
	default:
	}
	f.Set()
	<-f
}

func TestANilFlagNeverBlocksItsSetter(t *testing.T) {
	var f Flag
	f.Set()
	select {
	case <-f:
		t.Fatal("a nil flag was set")
	default:
	}
}
