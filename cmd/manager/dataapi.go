package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/dataapi"
	"github.com/openworkflow-operator/operator/internal/store"
)

// dataAPIService is the name of the Service before the data API.
const dataAPIService = "openworkflow-data-api"

// dataAPIBackoff repeats a start of the data API that has failed, for instance because the
// manager lacks a right. Nothing else of the manager depends on it.
var dataAPIBackoff = backoff.Policy{First: time.Second, Max: time.Minute}

// dataAPI serves the data API on every replica of the manager.
type dataAPI struct {
	address, certificates, namespace string

	databases *dataapi.Databases
	options   dataapi.Options
	client    client.Client
	log       logr.Logger

	served atomic.Bool // it has served once
}

// addDataAPI adds the data API to a manager, if a flag gives it an address.
func addDataAPI(mgr ctrl.Manager, config *rest.Config, o options, cluster string, rule backend.DialRule) error {
	if o.dataAPIAddress == "" || o.dataAPIAddress == "0" {
		return nil
	}
	namespace := leaseNamespace(o)
	if namespace == "" && o.dataAPICertificates == "" {
		return errors.New("--data-api-bind-address outside a pod needs --leader-election-namespace or --data-api-cert-dir")
	}
	live, err := client.New(config, client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return fmt.Errorf("reach the API server for the data API: %w", err)
	}
	api := &dataAPI{
		address: o.dataAPIAddress, certificates: o.dataAPICertificates, namespace: namespace,
		databases: &dataapi.Databases{Backends: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Open: func(ctx context.Context, o store.Options) (*store.Store, error) {
			o.Dial = rule.Dial
			return store.Open(ctx, o)
		}},
		options: dataapi.Options{Config: config, Cluster: cluster, AttachAcrossNamespaces: o.attachAcross},
		client:  live,
		log:     mgr.GetLogger().WithName("data-api"),
	}
	if err := mgr.AddReadyzCheck("data-api", api.check); err != nil {
		return fmt.Errorf("add the readiness check of the data API: %w", err)
	}
	return mgr.Add(api)
}

// check is a healthz.Checker. It fails until the data API serves for the first time, so an
// installation that lacks a right of it does not get ready. Later failures do not count:
// whatever else the manager does goes on without the data API.
func (d *dataAPI) check(*http.Request) error {
	if !d.served.Load() {
		return errors.New("the data API does not serve yet; the manager's log says what fails")
	}
	return nil
}

// NeedLeaderElection says that standbys serve too.
func (d *dataAPI) NeedLeaderElection() bool { return false }

// Start serves until ctx ends.
func (d *dataAPI) Start(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { _ = d.databases.Start(ctx) })
	for failures := 1; ; failures++ {
		err := d.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.log.Error(err, "Data API stopped, starting it again")
		if dataAPIBackoff.Wait(ctx, failures) != nil {
			return nil
		}
	}
}

// serve serves until ctx ends or something fails.
func (d *dataAPI) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var err error
	options := d.options
	if options.Certificate, err = d.certificate(ctx, &running); err != nil {
		return err
	}
	if options.Listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", d.address); err != nil {
		return fmt.Errorf("listen at %s: %w", d.address, err)
	}
	server, err := dataapi.New(d.databases, options)
	if err != nil {
		_ = options.Listener.Close()
		return err
	}
	d.served.Store(true) // the listener is open
	return server.Start(ctx)
}

// certificate returns the certificate to serve with: that of a directory, such as one that
// cert-manager fills, or one of the manager's own.
func (d *dataAPI) certificate(ctx context.Context, running *sync.WaitGroup) (dynamiccertificates.CertKeyContentProvider, error) {
	if d.certificates != "" {
		files, err := dynamiccertificates.NewDynamicServingContentFromFiles("data-api",
			filepath.Join(d.certificates, "tls.crt"), filepath.Join(d.certificates, "tls.key"))
		if err != nil {
			return nil, fmt.Errorf("read the certificate of the data API: %w", err)
		}
		return files, nil
	}
	own := &dataapi.Certificates{
		Client: d.client, Namespace: d.namespace, Clock: clock.RealClock{}, Log: d.log,
		Names: []string{dataAPIService + "." + d.namespace + ".svc"},
	}
	if err := own.Refresh(ctx); err != nil {
		return nil, err
	}
	running.Go(func() { _ = own.Start(ctx) })
	return own, nil
}
