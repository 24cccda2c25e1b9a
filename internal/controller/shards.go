package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/internal/wake"
)

// Several managers may share a cluster, each for the namespaces that carry a label. What a
// manager watches is fixed when it is created, so a new one is created whenever the set of
// its namespaces changes. As with any restart, nothing is lost.

// namespacesDebounce is how long changes of the namespaces are collected before the set is
// compared.
const namespacesDebounce = 2 * time.Second

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// InNamespaces calls run with the names of the namespaces that the selector matches, which
// may be none. When the set changes it ends the context of that call, waits for it to
// return and calls run again. InNamespaces returns nil when ctx ends, and the error of a
// call that returns by itself.
func InNamespaces(ctx context.Context, config *rest.Config, selector labels.Selector, run func(ctx context.Context, namespaces []string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kind := &metav1.PartialObjectMetadata{}
	kind.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	namespaces, err := cache.New(config, cache.Options{
		ByObject: map[client.Object]cache.ByObject{kind: {Label: selector, Transform: cache.TransformStripManagedFields()}},
	})
	if err != nil {
		return fmt.Errorf("make a cache of namespaces: %w", err)
	}
	informer, err := namespaces.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	changed := wake.New()
	change := func(any) { changed.Set() }
	// A namespace that gains or loses the label is added or deleted for this watch.
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: change, DeleteFunc: change}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	var watch sync.WaitGroup
	watch.Go(func() { _ = namespaces.Start(ctx) }) // until ctx ends
	defer watch.Wait()
	defer cancel()
	if !namespaces.WaitForCacheSync(ctx) {
		return nil // ctx has ended
	}
	names := func() ([]string, error) {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
		if err := namespaces.List(ctx, &list); err != nil {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		slices.Sort(names)
		return names, nil
	}
	for {
		selected, err := names()
		if err != nil {
			return err
		}
		ctrl.Log.Info("Selected namespaces", "selector", selector.String(), "namespaces", selected)
		runCtx, cancelRun := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- run(runCtx, selected) }()
		returned, err := waitForChange(ctx, changed, done, func() bool {
			now, err := names()
			return err != nil || !slices.Equal(now, selected)
		})
		cancelRun()
		if returned {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
	}
}

// waitForChange blocks until the set of namespaces has changed. Returned says that the
// call of run has returned before that, with err.
func waitForChange(ctx context.Context, changed wake.Flag, done <-chan error, changedSet func() bool) (returned bool, err error) {
	for {
		select {
		case err := <-done:
			return true, err
		case <-changed:
		}
		select { // collect changes that are made together
		case err := <-done:
			return true, err
		case <-ctx.Done():
			return true, <-done
		case <-time.After(namespacesDebounce):
		}
		if changedSet() {
			return false, nil
		}
	}
}
