package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const doctorLong = `Check the installation, your rights in the namespace, and the namespace's databases.

Of each database it reads what the manager's own checks say, the schema, the rights of its login,
connections, clocks, dead rows and what keeps the server from removing them, and whether workers
say what they serve. Sessions of the database's server are named to those who may get
diagnoses/sessions (the ClusterRole admin).

It changes nothing. The exit code is 1 if a check has the outcome Error.`

// installation is the name of the checks that the plugin makes itself.
const installation = "installation"

type doctorOptions struct {
	*factory
	printer *printer
}

func newDoctor(f *factory) *cobra.Command {
	o := &doctorOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check the installation and the databases", Long: doctorLong,
		Example: `  kubectl workflow doctor

  # Only what is wrong
  kubectl workflow doctor --no-headers | grep -v ' OK '`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	o.printer.addFlags(cmd)
	return cmd
}

func (o *doctorOptions) run(ctx context.Context) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	own := datav1alpha1.Diagnosis{ObjectMeta: metav1.ObjectMeta{Name: installation, Namespace: namespace}, Outcome: datav1alpha1.CheckOK}
	crds, err := o.checkKinds(ctx)
	if err != nil {
		return err
	}
	own.Checks = append(own.Checks, crds)
	rights, err := o.checkRights(ctx, namespace)
	if err != nil {
		return err
	}
	list := &datav1alpha1.DiagnosisList{}
	reached := o.checkDatabases(ctx, namespace, list)
	own.Checks = append(own.Checks, rights, reached)
	if len(list.Items) == 0 && reached.Outcome == datav1alpha1.CheckOK {
		own.Checks = append(own.Checks, datav1alpha1.Check{Name: "backends", Outcome: datav1alpha1.CheckWarning,
			Message: "there is no Backend in this namespace", Next: "create one, as the README shows"})
	}
	for _, c := range own.Checks {
		own.Outcome = worse(own.Outcome, c.Outcome)
	}
	list.Items = append([]datav1alpha1.Diagnosis{own}, list.Items...)
	if err := o.printer.print(o.Out, list, doctorTable(list.Items)); err != nil {
		return err
	}
	if slices.ContainsFunc(list.Items, func(d datav1alpha1.Diagnosis) bool { return d.Outcome == datav1alpha1.CheckError }) {
		return &endError{code: codeError}
	}
	return nil
}

// checkKinds looks for the kinds that this plugin knows.
func (o *doctorOptions) checkKinds(ctx context.Context) (datav1alpha1.Check, error) {
	check := datav1alpha1.Check{Name: "kinds", Outcome: datav1alpha1.CheckOK, Message: "the custom resources of " + v1alpha1.GroupVersion.String() + " are installed"}
	objects, err := o.objects()
	if err != nil {
		return check, err
	}
	body, err := objects.Get().AbsPath("/apis/" + v1alpha1.GroupVersion.String()).DoRaw(ctx)
	var served metav1.APIResourceList
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return check, fmt.Errorf("ask the API server for its kinds: %w", err)
	default:
		if err := json.Unmarshal(body, &served); err != nil {
			return check, fmt.Errorf("read the API server's kinds: %w", err)
		}
	}
	var missing []string
	for _, name := range []string{"backends", "workerpools", "workflowruns"} {
		if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == name }) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		check.Outcome, check.Message = datav1alpha1.CheckError, fmt.Sprintf("%s of %s are not installed", strings.Join(missing, ", "), v1alpha1.GroupVersion)
		check.Next = "apply config/crd of the release of the manager"
	}
	return check, nil
}

// wantedRights are what the plugin's verbs need, from what a viewer needs to what an admin has.
var wantedRights = []authorizationv1.ResourceAttributes{
	{Group: v1alpha1.GroupVersion.Group, Verb: "list", Resource: "workflowruns"},
	{Group: v1alpha1.GroupVersion.Group, Verb: "list", Resource: "workerpools"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "list", Resource: "runs"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "get", Resource: "runs", Subresource: "why"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "get", Resource: "runs", Subresource: "payload"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "create", Resource: "runs"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "create", Resource: "runs", Subresource: "cancel"},
	{Group: datav1alpha1.GroupVersion.Group, Verb: "get", Resource: "diagnoses", Subresource: "sessions"},
}

// checkRights asks the API server what the user may do.
func (o *doctorOptions) checkRights(ctx context.Context, namespace string) (datav1alpha1.Check, error) {
	check := datav1alpha1.Check{Name: "rights", Outcome: datav1alpha1.CheckOK, Message: "you may use all verbs in this namespace"}
	config, err := o.restConfig()
	if err != nil {
		return check, err
	}
	client, err := authorizationclient.NewForConfig(config)
	if err != nil {
		return check, err
	}
	var lacking []string
	for _, wanted := range wantedRights {
		wanted.Namespace = namespace
		review, err := client.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &wanted},
		}, metav1.CreateOptions{})
		if err != nil {
			return check, fmt.Errorf("ask the API server for your rights: %w", err)
		}
		if !review.Status.Allowed {
			resource := wanted.Resource
			if wanted.Subresource != "" {
				resource += "/" + wanted.Subresource
			}
			lacking = append(lacking, wanted.Verb+" "+resource)
		}
	}
	if len(lacking) > 0 {
		check.Outcome, check.Message = datav1alpha1.CheckWarning, "you may not "+strings.Join(lacking, ", ")
		check.Next = "the ClusterRoles view, edit and admin of a namespace allow these, in this order"
	}
	return check, nil
}

// checkDatabases reads the diagnoses of the namespace's Backends. That the data API does not
// answer is a finding.
func (o *doctorOptions) checkDatabases(ctx context.Context, namespace string, list *datav1alpha1.DiagnosisList) datav1alpha1.Check {
	data, err := o.data(ctx)
	if err == nil {
		err = data.rest.Get().Namespace(namespace).Resource("diagnoses").Do(ctx).Into(list)
	}
	if err != nil {
		return datav1alpha1.Check{Name: "data-api", Outcome: datav1alpha1.CheckError, Message: line(explain(err), 400),
			Next: "check that the manager runs and serves the data API (--data-api-bind-address), and your rights"}
	}
	return datav1alpha1.Check{Name: "data-api", Outcome: datav1alpha1.CheckOK, Message: "the data API answers"}
}

func worse(a, b string) string {
	order := []string{datav1alpha1.CheckOK, datav1alpha1.CheckWarning, datav1alpha1.CheckError}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

func doctorTable(diagnoses []datav1alpha1.Diagnosis) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		column("Of", 0), column("Check", 0), column("Outcome", 0), column("Message", 0), column("Next", 0),
	}}
	for i := range diagnoses {
		for _, c := range diagnoses[i].Checks {
			table.Rows = append(table.Rows, row(diagnoses[i].Name, c.Name, c.Outcome, line(c.Message, 400), line(c.Next, 400)))
		}
	}
	return table
}
