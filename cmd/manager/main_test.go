package main

import "testing"

// TestPprof_P9_IsServedOnLoopbackOnly holds that profiles, which are served without any
// authentication, are not offered to other pods.
func TestPprof_P9_IsServedOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for address, allowed := range map[string]bool{
		"": true, "0": true, "127.0.0.1:6060": true, "[::1]:6060": true, "localhost:6060": true,
		":6060": false, "0.0.0.0:6060": false, "[::]:6060": false, "10.1.2.3:6060": false, "example.test:6060": false, "6060": false,
	} {
		if err := checkPprofAddress(address); (err == nil) != allowed {
			t.Errorf("the check of %q returns %v", address, err)
		}
	}
}
