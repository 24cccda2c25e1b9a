package dataapi

import (
	"context"
	"crypto/tls"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
)

var (
	_ rest.Getter               = &diagnoses{}
	_ rest.Lister               = &diagnoses{}
	_ rest.Scoper               = &diagnoses{}
	_ rest.SingularNameProvider = &diagnoses{}
)

// diagnoses serves the resource diagnoses: the health of each Backend of a namespace. It names
// sessions of the database's server only to callers who may get diagnoses/sessions, which is no
// resource but a right.
type diagnoses struct {
	reader
	tables
	certificate dynamiccertificates.CertKeyContentProvider
}

func (*diagnoses) New() runtime.Object     { return &datav1alpha1.Diagnosis{} }
func (*diagnoses) NewList() runtime.Object { return &datav1alpha1.DiagnosisList{} }
func (*diagnoses) Destroy()                {}
func (*diagnoses) NamespaceScoped() bool   { return true }
func (*diagnoses) GetSingularName() string { return "diagnosis" }

// Get returns the diagnosis of the Backend of this name.
func (s *diagnoses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	list, err := s.list(ctx, genericapirequest.NamespaceValue(ctx), name)
	if err != nil {
		return nil, err
	}
	return &list.Items[0], nil
}

// List returns those of all Backends of a namespace.
func (s *diagnoses) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if err := plainList("diagnoses", namespace, o); err != nil {
		return nil, err
	}
	return s.list(ctx, namespace, "")
}

func (s *diagnoses) list(ctx context.Context, namespace, name string) (*datav1alpha1.DiagnosisList, error) {
	backends, err := s.databases.list(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	sessions, err := s.may(ctx, "diagnoses", "sessions", name)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.DiagnosisList{Items: []datav1alpha1.Diagnosis{}}
	for i := range backends {
		seen := &diagnoseSeen{backend: &backends[i], sessions: sessions, certificateEnds: certificateEnd(s.certificate), now: time.Now()}
		if err := s.observe(ctx, seen, namespace); err != nil {
			return nil, err
		}
		checks := diagnose(seen)
		list.Items = append(list.Items, datav1alpha1.Diagnosis{
			ObjectMeta: metav1.ObjectMeta{Name: backends[i].Name, Namespace: namespace}, Outcome: worstOf(checks), Checks: checks,
		})
	}
	return list, nil
}

// observe reads what the diagnosis is made from. A database that cannot be used is a finding.
func (s *diagnoses) observe(ctx context.Context, seen *diagnoseSeen, namespace string) error {
	err := s.databases.use(ctx, namespace, seen.backend.Name, func(open []*database) (err error) {
		db := open[0]
		defer func() { err = answer(ctx, db, err) }()
		if seen.Diagnosis, err = db.View(readTimeout).Diagnose(ctx); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		if seen.schema = db.CheckSchema(limited); seen.schema != nil && limited.Err() != nil {
			return limited.Err()
		}
		if seen.schema != nil {
			seen.fleet = fleet.New(seen.backend.Name, nil, nil)
			return nil
		}
		seen.fleet, err = s.fleet(ctx, db, namespace)
		return err
	})
	if ctx.Err() == nil && (apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err)) {
		seen.silent = true
		return nil
	}
	return err
}

// certificateEnd returns when a certificate ends, zero if it cannot be read.
func certificateEnd(c dynamiccertificates.CertKeyContentProvider) time.Time {
	pair, err := tls.X509KeyPair(c.CurrentCertKeyContent())
	if err != nil || pair.Leaf == nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}
