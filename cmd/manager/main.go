// The manager runs the controllers of OpenWorkflow for Kubernetes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // for a kubeconfig outside the cluster
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/openworkflow-operator/operator/internal/controller"
)

// options are the command line.
type options struct {
	metricsAddress string
	metricsSecure  bool
	probeAddress   string
	leaderElect    bool
	leaderElection string
	namespaces     string
	qps            float64
	burst          int
}

func main() {
	var o options
	flag.StringVar(&o.metricsAddress, "metrics-bind-address", "0", "Address of the metrics endpoint, such as :8443. 0 turns it off.")
	flag.BoolVar(&o.metricsSecure, "metrics-secure", true, "Serve metrics by HTTPS, to callers whom the cluster authorizes.")
	flag.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flag.BoolVar(&o.leaderElect, "leader-elect", false, "Elect a leader, so that several replicas may run.")
	flag.StringVar(&o.leaderElection, "leader-election-namespace", "", "Namespace of the leader's lease. Defaults to the manager's own.")
	flag.StringVar(&o.namespaces, "namespaces", "", "Namespaces to watch, separated by commas. Empty means all.")
	flag.Float64Var(&o.qps, "kube-api-qps", 200, "Requests per second to the API server, on average.")
	flag.IntVar(&o.burst, "kube-api-burst", 400, "Requests to the API server that may come at once.")
	logs := zap.Options{}
	logs.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logs)))

	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "Manager ended")
		os.Exit(1)
	}
}

// run runs the manager until ctx ends. It returns after the leader's lease was
// released, and the process must end then.
func run(ctx context.Context, o options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	config.QPS, config.Burst = float32(o.qps), o.burst

	scheme, err := controller.NewScheme()
	if err != nil {
		return err
	}
	caches, err := controller.CacheOptions(split(o.namespaces)...)
	if err != nil {
		return err
	}
	metrics := metricsserver.Options{BindAddress: o.metricsAddress, SecureServing: o.metricsSecure}
	if o.metricsSecure {
		metrics.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	grace := 8 * time.Second
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         caches,
		Metrics:                       metrics,
		HealthProbeBindAddress:        o.probeAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "manager.openworkflow.dev",
		LeaderElectionNamespace:       o.leaderElection,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &grace,
	})
	if err != nil {
		return fmt.Errorf("create the manager: %w", err)
	}
	for name, add := range map[string]func(string, healthz.Checker) error{
		"healthz": mgr.AddHealthzCheck,
		"readyz":  mgr.AddReadyzCheck,
	} {
		if err := add(name, healthz.Ping); err != nil {
			return fmt.Errorf("add %s: %w", name, err)
		}
	}
	cluster, err := controller.ClusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	if err := controller.Setup(ctx, mgr, controller.Options{Cluster: cluster}); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
