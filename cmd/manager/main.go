// The manager runs the controllers of OpenWorkflow for Kubernetes.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"
	_ "time/tzdata" // the zones of WorkflowSchedules: the image has none

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // for a kubeconfig outside the cluster
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/controller"
)

// options are the flags of the command line.
type options struct {
	metricsAddress string
	metricsSecure  bool
	probeAddress   string
	leaderElect    bool
	leaderElection string
	namespaces     string
	selector       string
	pprofAddress   string

	dataAPIAddress, dataAPICertificates string

	attachAcross bool
	allowLocal   bool
	denied       string
	qps          float64
	burst        int
}

func main() {
	var o options
	flag.StringVar(&o.metricsAddress, "metrics-bind-address", "0", "Address of the metrics endpoint, for example :8443. 0 turns it off.")
	flag.BoolVar(&o.metricsSecure, "metrics-secure", true, "Serve metrics over HTTPS, to callers that the API server authorizes.")
	flag.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flag.BoolVar(&o.leaderElect, "leader-elect", false, "Elect a leader among the replicas. Only the leader writes.")
	flag.StringVar(&o.leaderElection, "leader-election-namespace", "", "Namespace of the leader election's Lease. Defaults to the manager's own.")
	flag.StringVar(&o.namespaces, "namespaces", "", "Namespaces to watch, separated by commas. Empty means all namespaces.")
	flag.StringVar(&o.pprofAddress, "pprof-bind-address", "0", "Loopback address of Go's pprof endpoint, for example 127.0.0.1:6060. 0 turns it off.")
	flag.StringVar(&o.dataAPIAddress, "data-api-bind-address", "0", "Address of the data API, for example :8444. 0 turns it off.")
	flag.StringVar(&o.dataAPICertificates, "data-api-cert-dir", "", "Directory with tls.crt and tls.key of the data API, read again when they change. Empty makes the manager issue and renew its own.")
	flag.BoolVar(&o.attachAcross, "attach-across-namespaces", false, "Let an idempotencyKey find the run of an object in another namespace, where Backends of several namespaces share one schema and namespaceID.")
	flag.BoolVar(&o.allowLocal, "allow-local-databases", false, "Connect to databases at loopback and link-local addresses and Unix sockets too: for a manager outside a cluster.")
	flag.StringVar(&o.denied, "deny-database-networks", "", "Networks in which no Backend's database may be, separated by commas, such as the service network 10.96.0.0/12.")
	flag.StringVar(&o.selector, "namespace-selector", "", "Label selector of the namespaces to watch, instead of --namespaces. Run several managers with disjoint selectors to share a cluster.")
	flag.Float64Var(&o.qps, "kube-api-qps", -1, "Average requests per second to the API server. A negative value sets no limit: the API server's flow control decides.")
	flag.IntVar(&o.burst, "kube-api-burst", 400, "Requests to the API server that may exceed --kube-api-qps for a moment. Unused without that limit.")
	logs := zap.Options{}
	logs.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logs)))
	klog.SetLogger(ctrl.Log.WithName("kubernetes")) // what libraries of Kubernetes log
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // most memory is in long-lived caches
	}

	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "Manager ended")
		os.Exit(1)
	}
}

// run runs the manager until ctx ends.
func run(ctx context.Context, o options) error {
	if err := checkPprofAddress(o.pprofAddress); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	config.QPS, config.Burst = float32(o.qps), o.burst
	config.DisableCompression = true // the API server would compress each event of a watch separately
	if o.selector == "" {
		return manage(ctx, config, o, split(o.namespaces))
	}
	if o.namespaces != "" {
		return errors.New("give --namespaces or --namespace-selector, not both")
	}
	selector, err := labels.Parse(o.selector)
	if err != nil {
		return fmt.Errorf("parse --namespace-selector: %w", err)
	}
	return controller.InNamespaces(ctx, config, selector, func(ctx context.Context, namespaces []string) error {
		if len(namespaces) == 0 { // to manage none would mean all
			return idle(ctx, o.probeAddress)
		}
		return manage(ctx, config, o, namespaces)
	})
}

// idle answers health checks until ctx ends, and does nothing else.
func idle(ctx context.Context, address string) error {
	server := &http.Server{
		Addr:              address,
		ReadHeaderTimeout: 5 * time.Second,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer health checks: %w", err)
	}
	return nil
}

// leaseName returns the name of the leader election's Lease, which managers with the same
// selector share.
func leaseName(selector string) string {
	const name = "manager.openworkflow.dev"
	if selector == "" {
		return name
	}
	sum := sha256.Sum256([]byte(selector))
	return hex.EncodeToString(sum[:5]) + "." + name
}

// manage runs the controllers for these namespaces, or for all if there are none, until ctx
// ends. It returns after it has released the leader's Lease: the caller must not do
// anything that only the leader may do.
func manage(ctx context.Context, config *rest.Config, o options, namespaces []string) error {
	config = rest.CopyConfig(config)
	controller.LimitDepth(config)
	scheme, err := controller.NewScheme()
	if err != nil {
		return err
	}
	caches, err := controller.CacheOptions(namespaces...)
	if err != nil {
		return err
	}
	metrics := metricsserver.Options{BindAddress: o.metricsAddress, SecureServing: o.metricsSecure}
	if o.metricsSecure {
		metrics.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	rule := backend.DialRule{AllowLocal: o.allowLocal}
	for _, network := range split(o.denied) {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return fmt.Errorf("parse --deny-database-networks: %w", err)
		}
		rule.Denied = append(rule.Denied, prefix)
	}
	grace := 8 * time.Second
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         caches,
		Metrics:                       metrics,
		HealthProbeBindAddress:        o.probeAddress,
		PprofBindAddress:              o.pprofAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              leaseName(o.selector),
		LeaderElectionNamespace:       o.leaderElection,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &grace,
	})
	if err != nil {
		return fmt.Errorf("create the manager: %w", err)
	}
	if err := addChecks(mgr, o); err != nil {
		return err
	}
	cluster, err := controller.ClusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	if err := controller.Setup(ctx, mgr, controller.Options{
		Cluster: cluster, SkipNameValidation: o.selector != "", AttachAcrossNamespaces: o.attachAcross, Open: rule.Open,
	}); err != nil {
		return err
	}
	if err := addDataAPI(mgr, config, o, cluster, rule); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// checkPprofAddress refuses an address that other machines reach. The endpoint asks nobody who
// they are; kubectl port-forward reaches a loopback address.
func checkPprofAddress(address string) error {
	if address == "" || address == "0" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("parse --pprof-bind-address: %w", err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("--pprof-bind-address is %q: it must be a loopback address, such as 127.0.0.1:6060, as everybody who reaches it may read profiles", address)
	}
	return nil
}

// addChecks adds /healthz, which answers while the process lives, and /readyz, which fails
// until, and when, the manager cannot list its objects or read the leader's lease.
func addChecks(mgr ctrl.Manager, o options) error {
	readiness := &controller.Readiness{Live: mgr.GetAPIReader(), Synced: mgr.GetCache().WaitForCacheSync, Clock: clock.RealClock{}}
	if o.leaderElect {
		readiness.Lease = types.NamespacedName{Namespace: leaseNamespace(o), Name: leaseName(o.selector)}
	}
	if err := mgr.Add(readiness); err != nil {
		return fmt.Errorf("add the readiness check: %w", err)
	}
	if err := mgr.AddHealthzCheck("healthz", healthz.Ping); err != nil {
		return fmt.Errorf("add healthz: %w", err)
	}
	if err := mgr.AddReadyzCheck("readyz", readiness.Check); err != nil {
		return fmt.Errorf("add readyz: %w", err)
	}
	return nil
}

// leaseNamespace returns the namespace of the leader's Lease: as controller-runtime does, that
// of the pod if no flag names one.
func leaseNamespace(o options) string {
	if o.leaderElection != "" {
		return o.leaderElection
	}
	name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return "" // outside a pod the flag is required, and controller-runtime says so
	}
	return strings.TrimSpace(string(name))
}

// split returns the names in a list that commas or spaces separate.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
