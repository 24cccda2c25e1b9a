// kubectl-workflow is a plugin of kubectl: "kubectl workflow" starts, shows and steers the runs
// of a namespace, with and without WorkflowRun objects.
//
// A verb is a file of its own: it adds its flags to a command, and writes to the streams of its
// factory. WorkflowRuns are read from the API server, runs from the data API. connect.go reaches
// the latter with the user's own credentials.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // for kubeconfigs that name an identity provider
)

// completer is the name under which kubectl looks for a plugin's completion.
const completer = "kubectl_complete-workflow"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == completer {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	code := run(ctx, &factory{
		IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
		config:    genericclioptions.NewConfigFlags(true),
		now:       time.Now,
		reach:     connect,
	}, args)
	stop()
	os.Exit(code)
}

// run executes a command line and returns the exit code.
func run(ctx context.Context, f *factory, args []string) int {
	root := newRoot(f)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return codeDone
	}
	var silent *endError
	if !errors.As(err, &silent) || silent.message != "" {
		f.note("error: %s", explain(err))
	}
	return exitCode(err)
}
