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
)

// Several managers may share the work of a cluster, each for the namespaces of which
// it knows by a label. What a manager watches is fixed when it is made, so it is made
// anew when its namespaces are others; nothing is lost, as with any restart.

// namespacesDebounce is how long changes of the namespaces are gathered.
const namespacesDebounce = 2 * time.Second

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// InNamespaces calls run with the names of the namespaces that the selector picks, and
// again, after the call before has ended, whenever these are others. There may be none.
// It returns nil when ctx ends, and the error of a call that ends by itself.
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
	changed := make(chan struct{}, 1)
	change := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	// One that gets or loses the label is added or deleted for this watch.
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: change, DeleteFunc: change}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	var watch sync.WaitGroup
	watch.Go(func() { _ = namespaces.Start(ctx) }) // it ends with ctx
	defer watch.Wait()
	defer cancel()
	if !namespaces.WaitForCacheSync(ctx) {
		return nil // it is over already
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
		turn, end := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- run(turn, selected) }()
		over, err := waitForChange(ctx, changed, done, func() bool {
			now, err := names()
			return err != nil || !slices.Equal(now, selected)
		})
		end()
		if over {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
	}
}

// waitForChange returns when the namespaces are others, or with over when the call has
// ended by itself.
func waitForChange(ctx context.Context, changed <-chan struct{}, done <-chan error, changedSet func() bool) (over bool, err error) {
	for {
		select {
		case err := <-done:
			return true, err
		case <-changed:
		}
		select { // let the others come that were made together
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
