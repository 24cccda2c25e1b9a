# "make help" lists the targets. Only Go must be installed first. On Debian and Ubuntu, a
# target that runs as root installs the packages that it needs and says which. NO_INSTALL=1
# prevents that: the target then fails and prints the command for them. "make deps" installs all.

SHELL = /usr/bin/env bash
.SHELLFLAGS = -eo pipefail -c
.DEFAULT_GOAL = help
.NOTPARALLEL: # each step may use every core by itself

# Image of the manager, in what "deploy", "build-installer" and "docker-build" make.
IMG ?= ghcr.io/openworkflow-operator/manager:latest
DOCKER ?= docker

# The development cluster, its kubectl and the executables that envtest needs.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
DEVCLUSTER_CACHE ?= $(CACHE)/devcluster
DEVCLUSTER_NAME ?= dev
DEVCLUSTER_STATE ?= $(DEVCLUSTER_CACHE)/clusters/$(DEVCLUSTER_NAME)
DEVCLUSTER_KUBECONFIG := $(DEVCLUSTER_STATE)/admin.kubeconfig
KUBECTL ?= $(DEVCLUSTER_CACHE)/bin/kubectl

# Your own cluster if you have a kubeconfig, else the development cluster.
KUBECONFIG ?= $(if $(wildcard $(HOME)/.kube/config),$(HOME)/.kube/config,$(DEVCLUSTER_KUBECONFIG))
export KUBECONFIG DEVCLUSTER_CACHE DEVCLUSTER_NAME DEVCLUSTER_STATE

# Versions of tools are pinned in go.mod (controller-gen) and in the modules below hack/tools.
CONTROLLER_GEN = go tool controller-gen
LINT = "$$(hack/tool.sh lint)"

##@ General

.PHONY: help
help: ## Show this list.
	@echo "NO_INSTALL=1 makes a target fail instead of installing Debian packages that it needs."
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  \033[36m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install the Debian packages that the targets need (as root).
	hack/require.sh postgres pgbouncer race shellcheck nodejs chromium node tmux

##@ Development

.PHONY: generate
generate: ## Generate the deep copies of the resources, and the schema of the data API.
	$(CONTROLLER_GEN) object paths=./api/...
	hack/openapi.sh internal/dataapi/openapi

.PHONY: manifests
manifests: ## Generate the custom resource definitions and the manager's role.
	$(CONTROLLER_GEN) crd paths=./api/v1alpha1/... output:crd:dir=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=openworkflow-manager paths=./internal/controller/... output:rbac:dir=config/rbac

.PHONY: charts
charts: ## Generate the templates of the Helm charts from config, and the tables of their values.
	go run ./hack/charts

.PHONY: fmt
fmt: ## Format the code.
	$(LINT) fmt

.PHONY: vet
vet: ## Run go vet.
	go vet -tags e2e,interop,bench,helm ./...

.PHONY: lint
lint: ## Run golangci-lint.
	$(LINT) run

.PHONY: lint-fix
lint-fix: ## Run golangci-lint and apply its fixes.
	$(LINT) run --fix

.PHONY: lint-api
lint-api: ## Check the custom resources against the API conventions of Kubernetes.
	$(LINT) run -c .golangci-kal.yml ./api/...

.PHONY: shellcheck
shellcheck: ## Check the scripts.
	hack/require.sh shellcheck
	shellcheck hack/*.sh hack/devcluster/*.sh hack/gitops/*.sh .ci/run

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities; REQUIRE_VULNDB=1 fails without access to their database.
	hack/vulncheck.sh

.PHONY: verify-generated
verify-generated: ## Check that generated files and go.mod are current.
	hack/verify-generated.sh
	go mod tidy -diff

.PHONY: verify
verify: verify-generated vet lint lint-api shellcheck vulncheck ## Run all checks that are not tests.
	@echo "verified"

##@ Test

.PHONY: test
test: envtest ## Run the tests: units, store on Postgres, controllers on an API server. make verify vets them.
	hack/require.sh postgres pgbouncer race
	KUBEBUILDER_ASSETS=$(DEVCLUSTER_CACHE)/bin go test -race -vet=off -parallel 4 -timeout 15m $(TESTFLAGS) ./...

.PHONY: test-e2e
test-e2e: e2e-cluster ## Run the end-to-end tests on the development cluster.
	$(E2E) -timeout 60m -skip '^Test(P9|GitOps)' $(TESTFLAGS) ./test/e2e/...

.PHONY: test-e2e-short
test-e2e-short: e2e-cluster ## Run a short form of the end-to-end tests.
	$(E2E) -short -timeout 15m -skip '^Test(P9|GitOps)' $(TESTFLAGS) ./test/e2e/...

.PHONY: k9s
k9s: e2e-cluster ## Drive k9s in a terminal, on the development cluster; writes docs/sessions/k9s.md. Builds k9s the first time.
	hack/require.sh tmux
	$(E2E) -timeout 30m -run '^TestK9s' $(TESTFLAGS) ./test/e2e -k9s-session docs/sessions/k9s.md

.PHONY: sessions
sessions: e2e-cluster plugin ## Record the terminal sessions of docs/sessions on the development cluster.
	hack/sessions.sh

.PHONY: security
security: e2e-cluster ## Attack the manager beside an honest tenant, whose latency is measured; TESTFLAGS=-short is a short form.
	$(E2E) -timeout 30m -parallel 100 -run '^TestP9' $(TESTFLAGS) ./test/e2e/...

.PHONY: gitops
gitops: IMG = localhost/manager:dev
gitops: cluster-up images overlay ## Let Flux install the operator and run what docs/gitops.md says; TESTFLAGS=-short is a short form.
	hack/require.sh git
	hack/postgres.sh start
	hack/gitops/flux.sh start
	$(E2E) -timeout 30m -run '^TestGitOps' ./test/e2e $(TESTFLAGS)

.PHONY: argocd
argocd: ## Compare what Argo CD and Flux say about each state of each kind, by their own packages.
	cd test/argocd && GOWORK=off nice go test -vet=off -count=1 $(TESTFLAGS) ./...

.PHONY: interop
interop: ## Test Go workers beside OpenWorkflow's own npm package; TESTFLAGS=-short is a short form.
	hack/require.sh postgres nodejs chromium
	hack/npm.sh test/interop
	go test -tags interop -count=1 -parallel 8 -timeout 15m $(TESTFLAGS) ./test/interop/...

.PHONY: helm-test
helm-test: helm-cluster ## Test the charts with Helm 4 and 3 on the development cluster; TESTFLAGS=-short needs no cluster.
	hack/tool.sh helm
	hack/tool.sh helm3
	KUBECONFIG=$(DEVCLUSTER_KUBECONFIG) KUBECTL=$(KUBECTL) go test -tags helm -count=1 -timeout 30m $(TESTFLAGS) ./test/helm

.PHONY: helm-cluster
helm-cluster:
	$(if $(filter -short,$(TESTFLAGS)),,hack/devcluster/up.sh && hack/images.sh manager && hack/postgres.sh start)

.PHONY: property
property: ## Run random workflows with a crash at each write; "make test" runs fewer of them.
	hack/require.sh postgres
	go test ./test/property -count=1 -timeout 2h $(or $(TESTFLAGS),-programs=10000 -postgres-programs=500)

.PHONY: schedules
schedules: ## Compare the slots of schedules with a brute-force oracle: all time zones, ten years, 200 expressions.
	go test ./internal/schedule -count=1 -timeout 2h -v -run '^TestTiming_EqualsABruteForceOracle$$' -full $(TESTFLAGS)

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME (1m); "make test" runs the inputs in testdata/fuzz.
	hack/require.sh postgres
	hack/fuzz.sh $(or $(FUZZTIME),1m) $(TESTFLAGS)

.PHONY: test-postgres
test-postgres: ## Run the tests that need a database on VERSIONS of Postgres ("15 16 17 18").
	hack/require.sh pgbouncer
	hack/postgres-versions.sh "$(or $(VERSIONS),15 16 17 18)" \
		go test -count=1 -timeout 15m $(TESTFLAGS) ./internal/store ./internal/conformance ./internal/runner ./client

.PHONY: bench
bench: envtest ## Run all benchmarks beside a pgbench baseline; writes dist/bench/report.txt.
	hack/require.sh postgres
	KUBEBUILDER_ASSETS=$(DEVCLUSTER_CACHE)/bin go test -tags bench -count=1 -timeout 4h -v -run '^TestBench$$' ./test/bench

.PHONY: bench-short
bench-short: envtest ## Run small benchmarks, and compare their ratios with test/bench/ranges.yaml.
	hack/require.sh postgres
	KUBEBUILDER_ASSETS=$(DEVCLUSTER_CACHE)/bin go test -tags bench -count=1 -timeout 15m -v -run '^TestBench$$' ./test/bench -short

.PHONY: bench-rows
bench-rows: envtest ## Measure lists and reads of the data API beside 10 million runs: 12 GB below TMPDIR, a quarter of an hour.
	hack/require.sh postgres
	KUBEBUILDER_ASSETS=$(DEVCLUSTER_CACHE)/bin go test -tags bench -count=1 -timeout 1h -v -run '^TestBenchRows$$' ./internal/dataapi

.PHONY: bench-peers
bench-peers: ## Compare with OpenWorkflow's own package and with DBOS; writes dist/bench/peers.txt.
	hack/require.sh postgres nodejs
	go test -tags bench -count=1 -timeout 1h -v -run '^TestPeers$$' ./test/bench $(TESTFLAGS)

.PHONY: recovery
recovery: e2e-cluster ## Measure the time from a worker's SIGKILL to its successor's first write, 20 times.
	$(E2E) -timeout 20m -run TestRecoveryTakesLessThanASecond $(TESTFLAGS) ./test/e2e/...

E2E = KUBECONFIG=$(DEVCLUSTER_KUBECONFIG) KUBECTL=$(KUBECTL) go test -tags e2e -count=1 -v

.PHONY: e2e-cluster
e2e-cluster: cluster-up images
	hack/postgres.sh start
	$(MAKE) --no-print-directory deploy KUBECONFIG=$(DEVCLUSTER_KUBECONFIG) IMG=localhost/manager:dev

.PHONY: envtest
envtest:
	hack/devcluster/build.sh control

# Builds our own kubectl, unless KUBECTL names another one.
.PHONY: kubectl
kubectl:
	@$(if $(filter $(DEVCLUSTER_CACHE)/bin/kubectl,$(KUBECTL)),hack/devcluster/build.sh control)

##@ Development cluster

.PHONY: cluster-up
cluster-up: ## Start a Kubernetes cluster on this machine (as root); builds it the first time.
	hack/devcluster/up.sh

.PHONY: cluster-down
cluster-down: ## Stop the cluster and its Postgres, and keep their data.
	hack/devcluster/down.sh

.PHONY: cluster-wipe
cluster-wipe: ## Stop the cluster and its Postgres, and delete their data.
	hack/devcluster/down.sh --wipe

.PHONY: images
images: ## Build the images of the manager and of the examples, and load them into the cluster.
	hack/images.sh

.PHONY: demo
demo: ## Run twenty orders, kill a worker between two steps, and check that each card is charged once.
	hack/demo.sh

.PHONY: demo-down
demo-down: ## Remove everything that the demo started.
	hack/demo.sh down

##@ Build

.PHONY: build
build: ## Build the commands into bin/.
	go build -trimpath -o bin/ ./cmd/...

.PHONY: plugin
plugin: ## Build the kubectl plugin into bin/, with the name under which kubectl finds its completion.
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/ ./cmd/kubectl-workflow
	ln -sf kubectl-workflow bin/kubectl_complete-workflow

.PHONY: run
run: ## Run the manager on this machine, against the current cluster.
	go run ./cmd/manager --allow-local-databases

.PHONY: docker-build
docker-build: ## Build the manager's image with Docker; IMAGE_MAIN=./examples/checkout builds the example's.
	$(DOCKER) build -t $(IMG) --build-arg MAIN=$(or $(IMAGE_MAIN),./cmd/manager) .

.PHONY: build-installer
build-installer: kubectl overlay ## Write the manifests of the operator, with IMG, to dist/install.yaml.
	$(KUBECTL) kustomize dist/overlay >dist/install.yaml
	@echo "dist/install.yaml installs $(IMG)"

.PHONY: release
release: kubectl ## Write the files of release VERSION, which will be at BASE_URL, to dist/release by goreleaser; publishes nothing.
	VERSION=$(VERSION) BASE_URL=$(BASE_URL) KUBECTL=$(KUBECTL) hack/release.sh

.PHONY: release-check
release-check: kubectl ## Make the files of a release twice, in two directories, and compare their bytes.
	KUBECTL=$(KUBECTL) hack/release-check.sh

# config/default with IMG as the manager's image.
.PHONY: overlay
overlay:
	@mkdir -p dist/overlay
	@printf '%s\n' 'resources: [../../config/default]' 'images:' \
		'- name: ghcr.io/openworkflow-operator/manager' \
		'  newName: $(shell sed "s/:[^:/]*$$//" <<<"$(IMG)")' \
		'  newTag: $(shell sed "s/.*://" <<<"$(IMG)")' >dist/overlay/kustomization.yaml

##@ Deployment

.PHONY: install
install: kubectl ## Install the custom resource definitions into the current cluster.
	$(KUBECTL) apply --server-side -k config/crd

.PHONY: uninstall
uninstall: kubectl ## Remove the custom resource definitions, which deletes all their objects.
	$(KUBECTL) delete --ignore-not-found -k config/crd

.PHONY: deploy
deploy: kubectl overlay ## Deploy the operator, with IMG, to the current cluster.
	$(KUBECTL) apply --server-side --force-conflicts -k dist/overlay
	$(KUBECTL) -n openworkflow-system rollout restart deployment/openworkflow-manager # IMG may have changed behind its tag
	$(KUBECTL) -n openworkflow-system rollout status deployment/openworkflow-manager --timeout=180s

.PHONY: undeploy
undeploy: kubectl ## Remove the operator and the custom resource definitions.
	$(KUBECTL) delete --ignore-not-found -k config/default
