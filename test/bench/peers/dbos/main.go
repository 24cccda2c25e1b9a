// A program of DBOS Transact for Go, for comparison. Its workflows have steps that do
// nothing and are executed from a queue, as DBOS' documentation recommends for many runs.
//
//	DATABASE_URL=… dbos enqueue RUNS STEPS              enqueues runs, and ends
//	DATABASE_URL=… PORT=… CONCURRENCY=… POLLING=… dbos  executes them
//
// A worker answers on PORT: /readyz when it is ready, and /listen, from which on it takes
// runs from the queue. Until then it takes none, so that runs can be enqueued first.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

const (
	application = "bench"
	workflow    = "sequence"
	queue       = "bench"
	nothing     = "none" // a queue that does not exist
)

func sequence(ctx dbos.Context, steps int) (int, error) {
	sum := 0
	for i := range steps {
		n, err := dbos.RunAsStep(ctx, func(context.Context) (int, error) { return i, nil }, dbos.WithStepName("step"))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) == 4 && os.Args[1] == "enqueue" {
		err = enqueue(ctx, os.Args[2], os.Args[3])
	} else {
		err = work(ctx)
	}
	if err != nil {
		slog.Error("Could not work", "error", err)
		os.Exit(1)
	}
}

// work executes runs from the queue until ctx ends.
func work(ctx context.Context) error {
	concurrency, err := strconv.Atoi(os.Getenv("CONCURRENCY"))
	if err != nil {
		return err
	}
	polling, err := time.ParseDuration(os.Getenv("POLLING"))
	if err != nil {
		return err
	}
	app, err := dbos.NewContext(ctx, dbos.Config{AppName: application, DatabaseURL: os.Getenv("DATABASE_URL"), Logger: logger()})
	if err != nil {
		return err
	}
	dbos.RegisterWorkflow(app, sequence, dbos.WithWorkflowName(workflow))
	if _, err := dbos.RegisterQueue(app, queue,
		dbos.WithWorkerConcurrency(concurrency), dbos.WithQueueBasePollingInterval(polling)); err != nil {
		return err
	}
	dbos.ListenQueues(app, nothing)
	if err := dbos.Launch(app); err != nil {
		return err
	}
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("GET /listen", func(w http.ResponseWriter, _ *http.Request) {
		dbos.ListenQueues(app, queue)
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Addr: net.JoinHostPort("127.0.0.1", os.Getenv("PORT")), ReadHeaderTimeout: time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	dbos.Shutdown(app, 5*time.Second)
	return nil
}

// enqueue enqueues runs of so many steps.
func enqueue(ctx context.Context, runs, steps string) error {
	n, err := strconv.Atoi(runs)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(steps)
	if err != nil {
		return err
	}
	client, err := dbos.NewClient(ctx, dbos.ClientConfig{AppName: application, DatabaseURL: os.Getenv("DATABASE_URL"), Logger: logger()})
	if err != nil {
		return err
	}
	defer dbos.Shutdown(client, 5*time.Second)
	var tasks sync.WaitGroup
	var once sync.Once
	var failure error
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	for range 16 {
		tasks.Go(func() {
			for range next {
				if _, err := dbos.Enqueue[int](client, queue, workflow, length); err != nil {
					once.Do(func() { failure = err })
				}
			}
		})
	}
	tasks.Wait()
	return failure
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
