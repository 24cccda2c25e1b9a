// Standard library only, so this module has nothing to download.
module github.com/openworkflow-operator/operator/hack/devcluster/image

go 1.24
