package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConfigFromEnv(t *testing.T) {
	const url = "postgres://localhost/db"
	for name, c := range map[string]struct {
		env  map[string]string
		want Config
		err  []string
	}{
		"only a database": {
			env:  map[string]string{"OPENWORKFLOW_POSTGRES_URL": url},
			want: Config{PostgresURL: url},
		},
		"as the manager sets it": {
			env: map[string]string{
				"OPENWORKFLOW_POSTGRES_URL": url, "OPENWORKFLOW_SCHEMA": "s", "OPENWORKFLOW_NAMESPACE_ID": "n",
				"OPENWORKFLOW_CONCURRENCY": "7", "OPENWORKFLOW_LEASE_SECONDS": "12", "OPENWORKFLOW_MAX_WORKER_DEATHS": "3", "OPENWORKFLOW_GRACE_SECONDS": "22",
				"OPENWORKFLOW_HEALTH_PORT": "8081", "OPENWORKFLOW_POOL": "p", "OPENWORKFLOW_BACKEND": "b",
				"POD_NAME": "pod", "POD_NAMESPACE": "ns", "POD_UID": "uid",
			},
			want: Config{
				PostgresURL: url, Schema: "s", NamespaceID: "n", Concurrency: 7, Lease: 12 * time.Second,
				MaxWorkerDeaths: 3, Grace: 22 * time.Second, HealthAddress: ":8081", Pool: "p", Backend: "b",
				PodName: "pod", PodNamespace: "ns", PodUID: "uid",
			},
		},
		"health checks outside of a pod stay on this machine": {
			env:  map[string]string{"OPENWORKFLOW_POSTGRES_URL": url, "OPENWORKFLOW_HEALTH_PORT": "9000"},
			want: Config{PostgresURL: url, HealthAddress: "127.0.0.1:9000"},
		},
		"no health checks": {
			env:  map[string]string{"OPENWORKFLOW_POSTGRES_URL": url, "OPENWORKFLOW_HEALTH_PORT": "0", "POD_UID": "uid"},
			want: Config{PostgresURL: url, PodUID: "uid"},
		},
		"every mistake is named": {
			env: map[string]string{"OPENWORKFLOW_CONCURRENCY": "many", "OPENWORKFLOW_LEASE_SECONDS": "-1"},
			err: []string{
				"OPENWORKFLOW_POSTGRES_URL is not set",
				`OPENWORKFLOW_CONCURRENCY is "many": it must be a positive whole number`,
				`OPENWORKFLOW_LEASE_SECONDS is "-1": it must be a positive whole number`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"POD_NAME", "POD_NAMESPACE", "POD_UID", "OPENWORKFLOW_POSTGRES_URL"} {
				t.Setenv(variable, "")
			}
			for variable, value := range c.env {
				t.Setenv(variable, value)
			}
			got, err := ConfigFromEnv()
			if len(c.err) > 0 {
				for _, want := range c.err {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error is %v, want it to say %s", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
