// Package argocd compares what Flux and Argo CD say about the operator's objects. The objects are
// those of internal/controller/testdata/states.jsonl: each kind in each state that it can have. Flux
// judges them by its kstatus package; Argo CD by its Lua machine and the health checks in
// config/argocd. "make argocd" runs it.
//
// It is a module of its own: Argo CD needs several hundred modules that the operator does not.
package argocd
