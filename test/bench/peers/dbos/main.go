// A program of DBOS Transact for Go, for comparison: it executes a workflow of steps that
// do nothing, a hundred runs at once. Started by their callers, they are on DBOS' fast
// path, without its queues.
//
//	DATABASE_URL=… PORT=… dbos
//
// It answers on PORT: /readyz once it works, and /run?runs=N&steps=M with the seconds
// that N runs of M steps took.
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

const concurrency = 100

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
	if err := run(); err != nil {
		slog.Error("Could not work", "error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	app, err := dbos.NewContext(ctx, dbos.Config{
		AppName:     "bench",
		DatabaseURL: os.Getenv("DATABASE_URL"),
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	dbos.RegisterWorkflow(app, sequence)
	if err := dbos.Launch(app); err != nil {
		return err
	}
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("GET /run", func(w http.ResponseWriter, r *http.Request) {
		runs, err := strconv.Atoi(r.FormValue("runs"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		steps, err := strconv.Atoi(r.FormValue("steps"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		seconds, err := execute(app, runs, steps)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, seconds)
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

// execute executes runs of so many steps and returns the seconds that it took.
func execute(app dbos.Context, runs, steps int) (float64, error) {
	var tasks sync.WaitGroup
	var once sync.Once
	var failure error
	next := make(chan struct{})
	began := time.Now()
	for range concurrency {
		tasks.Go(func() {
			for range next {
				handle, err := dbos.RunWorkflow(app, sequence, steps)
				if err == nil {
					_, err = handle.GetResult()
				}
				if err != nil {
					once.Do(func() { failure = err })
				}
			}
		})
	}
	for range runs {
		next <- struct{}{}
	}
	close(next)
	tasks.Wait()
	return time.Since(began).Seconds(), failure
}
