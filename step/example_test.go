package step_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

func Example() {
	type order struct {
		ID     string
		Amount int
	}
	checkout := workflow.Define("checkout", func(ctx context.Context, in order) (string, error) {
		charge, err := step.Run(ctx, "charge-card", func(context.Context) (string, error) {
			return fmt.Sprintf("%d charged", in.Amount), nil
		})
		if err != nil {
			return "", err
		}
		if err := step.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
			return "", err
		}
		approval, ok, err := step.WaitForSignal[string](ctx, "approval:"+in.ID, step.Timeout(7*24*time.Hour))
		switch {
		case err != nil:
			return "", err
		case !ok:
			return charge + ", nobody approved", nil
		}
		return charge + ", approved by " + approval, nil
	})

	env := workflowtest.New(workflowtest.ForExample(), checkout)
	env.Signal("approval:1001", "ann")
	fmt.Println(workflowtest.Start(env, checkout, order{ID: "1001", Amount: 42}).Result())
	// Output: 42 charged, approved by ann <nil>
}

func ExampleWaitForApproval() {
	release := workflow.Define("release", func(ctx context.Context, version string) (string, error) {
		approval, err := step.WaitForApproval(ctx, "release", step.ApprovalOptions{
			Prompt:       "Release " + version + "?",
			Users:        []string{"ann", "bob"},
			ExpiresAfter: 48 * time.Hour,
		})
		if err != nil || !approval.Approved {
			return "not released", err
		}
		return "released, as " + approval.Decisions[0].User + " says: " + approval.Decisions[0].Comment, nil
	})
	env := workflowtest.New(workflowtest.ForExample(), release)
	env.Approve("release", workflowtest.Approver{User: "ann", Comment: "go"})
	fmt.Println(workflowtest.Start(env, release, "v2").Result())
	// Output: released, as ann says: go <nil>
}

func ExampleRun() {
	greet := workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
		return step.Run(ctx, "compose", func(context.Context) (string, error) {
			return "hello, " + name, nil
		})
	})
	env := workflowtest.New(workflowtest.ForExample(), greet)
	fmt.Println(workflowtest.Start(env, greet, "ada").Result())
	// Output: hello, ada <nil>
}

// The second step with the same name is stored as "page:1".
func ExampleRun_loop() {
	crawl := workflow.Define("crawl", func(ctx context.Context, pages int) ([]string, error) {
		var found []string
		for n := range pages {
			page, err := step.Run(ctx, "page", func(context.Context) (string, error) {
				return fmt.Sprintf("page %d", n+1), nil
			})
			if err != nil {
				return nil, err
			}
			found = append(found, page)
		}
		return found, nil
	})
	env := workflowtest.New(workflowtest.ForExample(), crawl)
	fmt.Println(workflowtest.Start(env, crawl, 3).Result())
	// Output: [page 1 page 2 page 3] <nil>
}

func ExampleRetry() {
	attempts := 0
	fetch := workflow.Define("fetch", func(ctx context.Context, _ any) (int, error) {
		return step.Run(ctx, "download", func(context.Context) (int, error) {
			if attempts++; attempts < 3 {
				return 0, errors.New("connection reset")
			}
			return attempts, nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: time.Minute, MaximumAttempts: 5}))
	})
	env := workflowtest.New(workflowtest.ForExample(), fetch)
	fmt.Println(workflowtest.Start(env, fetch, nil).Result())
	// Output: 3 <nil>
}

func ExampleNonRetryable() {
	attempts := 0
	pay := workflow.Define("pay", func(ctx context.Context, amount int) (string, error) {
		return step.Run(ctx, "charge", func(context.Context) (string, error) {
			attempts++
			if amount <= 0 {
				return "", step.NonRetryable(fmt.Errorf("cannot charge %d", amount))
			}
			return "charged", nil
		})
	})
	env := workflowtest.New(workflowtest.ForExample(), pay)
	_, err := workflowtest.Start(env, pay, -1).Result()
	fmt.Println(err)
	fmt.Println("attempts:", attempts)
	// Output:
	// workflow "pay" failed: cannot charge -1
	// attempts: 1
}

func ExampleMaxDuration() {
	slow := workflow.Define("slow", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "call", func(ctx context.Context) (string, error) {
			<-ctx.Done() // as an HTTP request with this context does
			return "", ctx.Err()
		}, step.MaxDuration(time.Millisecond), step.Retry(workflow.RetryPolicy{MaximumAttempts: 2}))
	})
	env := workflowtest.New(workflowtest.ForExample(), slow)
	_, err := workflowtest.Start(env, slow, nil).Result()
	fmt.Println(err)
	// Output: workflow "slow" failed: the step has exceeded its maximum duration of 1ms: context deadline exceeded
}

// A step that has no attempts left returns an Error, which is the same at each execution.
func ExampleError() {
	deliver := workflow.Define("deliver", func(ctx context.Context, _ any) (string, error) {
		_, err := step.Run(ctx, "by-drone", func(context.Context) (any, error) {
			return nil, step.NonRetryable(errors.New("too windy"))
		})
		if failed, ok := errors.AsType[*step.Error](err); ok {
			return "by truck, as " + failed.Step + " was " + failed.Message, nil
		}
		return "by drone", err
	})
	env := workflowtest.New(workflowtest.ForExample(), deliver)
	fmt.Println(workflowtest.Start(env, deliver, nil).Result())
	// Output: by truck, as by-drone was too windy <nil>
}

func ExampleSleep() {
	remind := workflow.Define("remind", func(ctx context.Context, _ any) (string, error) {
		if err := step.Sleep(ctx, "a week", 7*24*time.Hour); err != nil {
			return "", err
		}
		return "a week has passed", nil
	})
	env := workflowtest.New(workflowtest.ForExample(), remind)
	fmt.Println(workflowtest.Start(env, remind, nil).Result())
	// Output: a week has passed <nil>
}

func ExampleSleepUntil() {
	launch := workflow.Define("launch", func(ctx context.Context, at time.Time) (string, error) {
		if err := step.SleepUntil(ctx, "launch day", at); err != nil {
			return "", err
		}
		return "launched", nil
	})
	env := workflowtest.New(workflowtest.ForExample(), launch)
	fmt.Println(workflowtest.Start(env, launch, time.Now().Add(48*time.Hour)).Result())
	// Output: launched <nil>
}

func ExampleRunWorkflow() {
	label := workflow.Define("print-label", func(ctx context.Context, address string) (string, error) {
		return step.Run(ctx, "print", func(context.Context) (string, error) { return "label for " + address, nil })
	})
	parcel := workflow.Define("parcel", func(ctx context.Context, address string) (string, error) {
		return step.RunWorkflow(ctx, label, address, step.Timeout(time.Hour))
	})
	env := workflowtest.New(workflowtest.ForExample(), parcel, label)
	fmt.Println(workflowtest.Start(env, parcel, "Ada, London").Result())
	// Output: label for Ada, London <nil>
}

func ExampleGoWorkflow() {
	square := workflow.Define("square", func(_ context.Context, n int) (int, error) { return n * n, nil })
	sum := workflow.Define("sum", func(ctx context.Context, upTo int) (int, error) {
		var squares []*step.Future[int]
		for n := range upTo {
			squares = append(squares, step.GoWorkflow(ctx, square, n+1))
		}
		sum := 0
		for _, s := range squares {
			n, err := s.Await()
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	})
	env := workflowtest.New(workflowtest.ForExample(), sum, square)
	fmt.Println(workflowtest.Start(env, sum, 3).Result())
	// Output: 14 <nil>
}

// A child that another program executes, for example in TypeScript, is declared. In a test, a
// definition of the same name replaces it.
func ExampleRunWorkflow_declared() {
	translate := workflow.Declare[string, string]("translate")
	letter := workflow.Define("letter", func(ctx context.Context, text string) (string, error) {
		return step.RunWorkflow(ctx, translate, text, step.Name("translate the letter"))
	})

	standIn := workflow.Define("translate", func(_ context.Context, text string) (string, error) {
		return strings.ToUpper(text), nil
	})
	env := workflowtest.New(workflowtest.ForExample(), letter, standIn)
	fmt.Println(workflowtest.Start(env, letter, "dear ada").Result())
	// Output: DEAR ADA <nil>
}

func ExampleWaitForSignal() {
	approve := workflow.Define("approve", func(ctx context.Context, order string) (string, error) {
		by, received, err := step.WaitForSignal[string](ctx, "approval:"+order, step.Timeout(48*time.Hour))
		switch {
		case err != nil:
			return "", err
		case !received:
			return order + " has expired", nil
		}
		return order + " was approved by " + by, nil
	})
	env := workflowtest.New(workflowtest.ForExample(), approve)
	env.Signal("approval:order-1", "ann")
	fmt.Println(workflowtest.Start(env, approve, "order-1").Result())
	fmt.Println(workflowtest.Start(env, approve, "order-2").Result()) // nobody answers for two days
	// Output:
	// order-1 was approved by ann <nil>
	// order-2 has expired <nil>
}

func ExampleTimeoutAt() {
	vote := workflow.Define("vote", func(ctx context.Context, closes time.Time) (string, error) {
		_, received, err := step.WaitForSignal[string](ctx, "vote", step.Name("ballot"), step.TimeoutAt(closes))
		if err != nil || received {
			return "voted", err
		}
		return "closed", nil
	})
	env := workflowtest.New(workflowtest.ForExample(), vote)
	fmt.Println(workflowtest.Start(env, vote, time.Now().Add(time.Hour)).Result())
	// Output: closed <nil>
}

func ExampleSendSignal() {
	listen := workflow.Define("listen", func(ctx context.Context, _ any) (string, error) {
		news, _, err := step.WaitForSignal[string](ctx, "news")
		return news, err
	})
	announce := workflow.Define("announce", func(ctx context.Context, _ any) (int, error) {
		listener := step.GoWorkflow(ctx, listen, nil)
		if err := step.Sleep(ctx, "until it listens", time.Minute); err != nil {
			return 0, err
		}
		runIDs, err := step.SendSignal(ctx, "news", "it works")
		if err != nil {
			return 0, err
		}
		_, err = listener.Await()
		return len(runIDs), err
	})
	env := workflowtest.New(workflowtest.ForExample(), announce, listen)
	fmt.Println(workflowtest.Start(env, announce, nil).Result())
	// Output: 1 <nil>
}

func ExampleGo() {
	order := workflow.Define("order", func(ctx context.Context, _ any) (string, error) {
		stock := step.Go(ctx, "reserve-stock", func(context.Context) (string, error) { return "reserved", nil })
		parcel := step.Go(ctx, "pack-parcel", func(context.Context) (string, error) { return "packed", nil })
		reserved, err := stock.Await()
		if err != nil {
			return "", err
		}
		packed, err := parcel.Await()
		return reserved + " and " + packed, err
	})
	env := workflowtest.New(workflowtest.ForExample(), order)
	fmt.Println(workflowtest.Start(env, order, nil).Result())
	// Output: reserved and packed <nil>
}

func ExampleSelect() {
	ask := workflow.Define("ask", func(ctx context.Context, _ any) (string, error) {
		answer := step.GoWaitForSignal[string](ctx, "answer")
		reminder := step.GoSleep(ctx, "a day", 24*time.Hour)
		first, err := step.Select(ctx, "answer or reminder", answer, reminder)
		if err != nil {
			return "", err
		}
		reminded := ""
		if first == 1 {
			reminded = ", after a reminder"
		}
		signal, err := answer.Await()
		return signal.Data + reminded, err
	})
	env := workflowtest.New(workflowtest.ForExample(), ask)
	env.SignalAfter(30*time.Hour, "answer", "yes")
	fmt.Println(workflowtest.Start(env, ask, nil).Result())
	// Output: yes, after a reminder <nil>
}

// A timer ends a wait for something else at an instant.
func ExampleGoSleepUntil() {
	race := workflow.Define("race", func(ctx context.Context, closes time.Time) (int, error) {
		closing := step.GoSleepUntil(ctx, "closing time", closes)
		guest := step.GoWaitForSignal[string](ctx, "guest")
		return step.Select(ctx, "guest or closing time", guest, closing)
	})
	env := workflowtest.New(workflowtest.ForExample(), race)
	fmt.Println(workflowtest.Start(env, race, time.Now().Add(8*time.Hour)).Result())
	// Output: 1 <nil>
}

func ExampleGoSleep() {
	cook := workflow.Define("cook", func(ctx context.Context, _ any) (string, error) {
		timer := step.GoSleep(ctx, "10 minutes", 10*time.Minute)
		salad, err := step.Run(ctx, "salad", func(context.Context) (string, error) { return "salad", nil })
		if err != nil {
			return "", err
		}
		_, err = timer.Await()
		return "pasta and " + salad, err
	})
	env := workflowtest.New(workflowtest.ForExample(), cook)
	fmt.Println(workflowtest.Start(env, cook, nil).Result())
	// Output: pasta and salad <nil>
}

func ExampleGoWaitForSignal() {
	handshake := workflow.Define("handshake", func(ctx context.Context, _ any) (string, error) {
		// Start the wait before anybody can answer.
		answer := step.GoWaitForSignal[string](ctx, "pong", step.Name("hear pong"))
		_, err := step.SendSignal(ctx, "pong", "hello", step.Name("say pong"))
		if err != nil {
			return "", err
		}
		signal, err := answer.Await()
		return signal.Data, err
	})
	env := workflowtest.New(workflowtest.ForExample(), handshake)
	fmt.Println(workflowtest.Start(env, handshake, nil).Result())
	// Output: hello <nil>
}

func ExampleMap() {
	lengths := workflow.Define("lengths", func(ctx context.Context, words []string) ([]int, error) {
		return step.Map(ctx, "length", words, 2, func(_ context.Context, word string) (int, error) {
			return len(word), nil
		})
	})
	env := workflowtest.New(workflowtest.ForExample(), lengths)
	fmt.Println(workflowtest.Start(env, lengths, []string{"a", "bb", "ccc", "dddd"}).Result())
	// Output: [1 2 3 4] <nil>
}
