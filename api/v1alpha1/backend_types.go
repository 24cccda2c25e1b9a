package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BackendSpec says which Postgres database holds a namespace's runs.
// +kubebuilder:validation:XValidation:rule="has(self.namespaceID) ? has(oldSelf.namespaceID) && self.namespaceID == oldSelf.namespaceID : !has(oldSelf.namespaceID)",message="namespaceID is immutable: runs live in the namespace they started in"
type BackendSpec struct {
	// postgres says how to reach the database.
	// +required
	Postgres PostgresBackend `json:"postgres,omitzero"`

	// schema is the Postgres schema that holds OpenWorkflow's tables.
	// Defaults to openworkflow.
	// +optional
	// +default="openworkflow"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$')",message="must start with a letter or underscore and hold only letters, digits and underscores"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="is immutable: runs live in the schema they started in"
	Schema string `json:"schema,omitempty"`

	// namespaceID is OpenWorkflow's namespace within the tables. It is immutable. Empty means the Kubernetes
	// namespace of this object. Use "default" to share runs with an OpenWorkflow application that
	// sets none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NamespaceID string `json:"namespaceID,omitempty"`

	// migrate says whether the manager creates and upgrades the schema. Defaults to true. With
	// false, the schema must be up to date.
	// +optional
	// +default=true
	Migrate *bool `json:"migrate,omitempty"`

	// retention says how long the rows and the objects of ended runs are kept. Empty means for ever.
	// What it says of rows applies to all runs of the namespaceID, including those of clients. The
	// rows of a run stay at least as long as its WorkflowRun object.
	// +optional
	Retention RunRetention `json:"retention,omitzero"`
}

// RunRetention says how long the rows and the objects of ended runs are kept.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(self.idempotencyKeyTTLSeconds) || has(self.ttlSecondsAfterFinished)",message="idempotencyKeyTTLSeconds needs ttlSecondsAfterFinished, without which no row is removed"
// +kubebuilder:validation:XValidation:rule="!has(self.idempotencyKeyTTLSeconds) || !has(self.ttlSecondsAfterFinished) || self.idempotencyKeyTTLSeconds >= self.ttlSecondsAfterFinished",message="idempotencyKeyTTLSeconds must not be shorter than ttlSecondsAfterFinished"
// +kubebuilder:validation:XValidation:rule="!has(self.archive) || has(self.ttlSecondsAfterFinished)",message="archive needs ttlSecondsAfterFinished, without which no row is removed"
// +kubebuilder:validation:XValidation:rule="!has(self.archiveTTLSeconds) || has(self.archive)",message="archiveTTLSeconds needs archive: Enabled, or Disabled to remove only the archives that exist"
type RunRetention struct {
	// ttlSecondsAfterFinished removes a run from the database this many seconds after its end, with
	// its step attempts and the signals that it received. A child run stays at least until its
	// parent has ended, and a parent as long as its children. The minimum is 86400, a day. Empty
	// keeps all runs.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule="self >= 86400",message="must be at least 86400, which is a day: OpenWorkflow's clients look for a run that far back before they start another with its idempotency key"
	TTLSecondsAfterFinished int32 `json:"ttlSecondsAfterFinished,omitempty"`

	// idempotencyKeyTTLSeconds is the same for rows that keep work from being done twice: runs with
	// an idempotency key or with an id that is not a UUID, and signals that were sent with a key.
	// Once such a row is removed, its key is free, and the same manifest or program starts the
	// work again. Empty keeps these rows for ever.
	// +optional
	// +kubebuilder:validation:Minimum=1
	IdempotencyKeyTTLSeconds int32 `json:"idempotencyKeyTTLSeconds,omitempty"`

	// objectTTLSecondsAfterFinished is the ttlSecondsAfterFinished of the Backend's WorkflowRuns that
	// set none: their objects are deleted this many seconds after the end of their run. It applies to
	// those that have ended already, too. Do not set it where a GitOps tool manages WorkflowRuns: it
	// would create them again. Empty keeps these objects.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObjectTTLSecondsAfterFinished *int32 `json:"objectTTLSecondsAfterFinished,omitempty"`

	// archive stores runs, if Enabled, compressed in a table of the manager's before their rows are
	// removed. The data API shows them, and they can be forked. Runs of more than 64 MiB, or with a
	// row of more than 16 MiB, stay in the tables. Empty means Disabled.
	// +optional
	Archive ArchiveMode `json:"archive,omitempty"`

	// archiveTTLSeconds removes archives this many seconds after they were made. Empty keeps them
	// for ever.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ArchiveTTLSeconds int32 `json:"archiveTTLSeconds,omitempty"`
}

// ArchiveMode says whether runs are archived before their rows are removed.
// +enum
// +kubebuilder:validation:Enum=Enabled;Disabled
type ArchiveMode string

const (
	// ArchiveEnabled archives runs before their rows are removed.
	ArchiveEnabled ArchiveMode = "Enabled"
	// ArchiveDisabled removes rows without an archive.
	ArchiveDisabled ArchiveMode = "Disabled"
)

// PostgresBackend says how to reach a Postgres database.
type PostgresBackend struct {
	// urlSecretRef names the Secret that holds the URL of the database
	// (postgres://user:password@host:port/database). The Secret must be in the namespace of the
	// Backend. The "uri" key of a CloudNativePG secret has the right form.
	// +required
	URLSecretRef SecretKeyRef `json:"urlSecretRef,omitzero"`

	// workerURLSecretRef names the Secret with the URL that the pods of WorkerPools get. Its login
	// needs fewer rights than the manager's. Empty means that of urlSecretRef.
	// +optional
	WorkerURLSecretRef SecretKeyRef `json:"workerURLSecretRef,omitzero"`

	// migrationURLSecretRef names the Secret with the URL by which the manager creates and upgrades
	// the schema. Its login owns the tables. Empty means that of urlSecretRef.
	// +optional
	MigrationURLSecretRef SecretKeyRef `json:"migrationURLSecretRef,omitzero"`

	// sslMode says how connections are protected, in libpq's words. It applies to each of the URLs
	// that has no sslmode; one that has another is invalid. verify-full is the only mode that keeps
	// out whoever can answer at the address of the database. Empty means what the URL says and,
	// if it says nothing, verify-full with a caSecretRef, and prefer without one.
	// +optional
	// +kubebuilder:validation:Enum=disable;allow;prefer;require;verify-ca;verify-full
	SSLMode string `json:"sslMode,omitempty"`

	// caSecretRef names the Secret with the certificates, in PEM form, of those who may sign that
	// of the server. Manager and pods get it. The Secret must be in the namespace of the Backend;
	// CloudNativePG's is named after the cluster, with the suffix -ca. Empty means the authorities
	// that the images of manager and workers trust.
	// +optional
	CASecretRef CASecretKeyRef `json:"caSecretRef,omitzero"`
}

// WorkerSecret returns the Secret with the URL for the pods of WorkerPools.
func (b *PostgresBackend) WorkerSecret() SecretKeyRef {
	if b.WorkerURLSecretRef.Name != "" {
		return b.WorkerURLSecretRef
	}
	return b.URLSecretRef
}

// MigrationSecret returns the Secret with the URL for migrations.
func (b *PostgresBackend) MigrationSecret() SecretKeyRef {
	if b.MigrationURLSecretRef.Name != "" {
		return b.MigrationURLSecretRef
	}
	return b.URLSecretRef
}

// SecretKeyRef names one key of a Secret in the same namespace.
type SecretKeyRef struct {
	// name is the Secret's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key within the Secret. Defaults to uri.
	// +optional
	// +default="uri"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// CASecretKeyRef names one key of a Secret in the same namespace.
type CASecretKeyRef struct {
	// name is the Secret's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key within the Secret. Defaults to ca.crt.
	// +optional
	// +default="ca.crt"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// BackendStatus is the last observation of the database by the manager.
// +kubebuilder:validation:MinProperties=1
type BackendStatus struct {
	// observedGeneration is the generation of the spec that this status describes.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// namespaceID is OpenWorkflow's namespace within the tables that is in use.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NamespaceID string `json:"namespaceID,omitempty"`

	// serverVersion is the version of the Postgres server, for example 15.18.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ServerVersion string `json:"serverVersion,omitempty"`

	// conditions are Ready, and Reconciling or Stalled while true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=owb,categories={openworkflow}
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Schema",type=string,JSONPath=`.spec.schema`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Namespace-ID",type=string,JSONPath=`.status.namespaceID`,priority=1
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.status.serverVersion`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1

// Backend is the Postgres database that holds the workflow runs of its namespace.
type Backend struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which database to use.
	// +required
	Spec BackendSpec `json:"spec,omitzero"`

	// status is the last observation of the database by the manager.
	// +optional
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NotObserved", "message": "not seen by the manager yet", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	Status BackendStatus `json:"status,omitzero"`

	// Unreadable names what of the object could not be decoded, nil if all was. It is no part of
	// the API.
	Unreadable *Unreadable `json:"-"`
}

// +kubebuilder:object:root=true

// BackendList is a list of Backends.
type BackendList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Backend `json:"items"`
}
