package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const logsLong = `Print the lines about a run in the logs of the worker pods of its Backend.

A line is about a run if it has the run's id in it, as all lines of a worker's own log about a run
do: they are JSON with a member "run". What your steps log is found if it names the run. Logs of pods
that are gone are gone too: read them where your cluster collects them, by the same id.`

// maxLogLine bounds the memory for a line of a log. Longer ones are left out.
const maxLogLine = 1 << 20

// logReaders is the number of pods whose logs are read at once.
const logReaders = 8

type logsOptions struct {
	*factory
	follow, previous, timestamps, prefix bool
	since                                time.Duration
	limitBytes                           int64
}

func newLogs(f *factory) *cobra.Command {
	o := &logsOptions{factory: f}
	cmd := &cobra.Command{
		Use: "logs RUN", Short: "Print the lines about a run in the logs of its workers", Long: logsLong,
		Example: `  kubectl workflow logs order-1001 --follow`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.follow, "follow", "f", false, "Go on until interrupted.")
	flags.BoolVarP(&o.previous, "previous", "p", false, "Read the logs of the containers that ran before the present ones.")
	flags.BoolVar(&o.timestamps, "timestamps", false, "Begin each line with its time.")
	flags.BoolVar(&o.prefix, "prefix", true, "Begin each line with the pod's name.")
	flags.DurationVar(&o.since, "since", 0, "Only lines within this time, such as 1h. By default since the run was created.")
	flags.Int64Var(&o.limitBytes, "limit-bytes", 0, "Read at most this much of each pod's log. 0 is no limit.")
	return cmd
}

func (o *logsOptions) run(ctx context.Context, argument string) error {
	if o.since < 0 || o.limitBytes < 0 {
		return errors.New("--since and --limit-bytes are not negative")
	}
	found, _, err := o.findRun(ctx, argument)
	if err != nil {
		return err
	}
	core, err := o.core()
	if err != nil {
		return err
	}
	pods, err := core.Pods(found.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: v1alpha1.LabelWorkerPool + "," + v1alpha1.LabelBackend + "=" + found.run.Spec.Backend,
	})
	if err != nil {
		return fmt.Errorf("find the worker pods: %w", err)
	}
	if len(pods.Items) == 0 {
		o.note("No worker pods of Backend %s in namespace %s.", found.run.Spec.Backend, found.namespace)
		return nil
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	options := corev1.PodLogOptions{Follow: o.follow, Previous: o.previous, Timestamps: o.timestamps, SinceTime: &found.run.CreationTimestamp}
	if o.since > 0 {
		seconds := max(1, int64(o.since/time.Second))
		options.SinceTime, options.SinceSeconds = nil, &seconds
	}
	if o.limitBytes > 0 {
		options.LimitBytes = &o.limitBytes
	}
	return o.read(ctx, core, pods.Items, options, found.id)
}

// read prints the lines of all pods: as they come when it follows, else pod by pod.
func (o *logsOptions) read(ctx context.Context, core corev1client.CoreV1Interface, pods []corev1.Pod, options corev1.PodLogOptions, id string) error {
	out := &lockedWriter{out: o.Out}
	readers := logReaders
	if o.follow {
		readers = len(pods)
	}
	var reading sync.WaitGroup
	slots := make(chan struct{}, readers)
	texts, failed := make([]bytes.Buffer, len(pods)), make([]error, len(pods))
	for i := range pods {
		reading.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			to := io.Writer(&texts[i])
			if o.follow {
				to = out
			}
			failed[i] = o.readPod(ctx, core, &pods[i], options, id, to)
		})
	}
	reading.Wait()
	isEmpty := !o.follow
	for i := range texts {
		isEmpty = isEmpty && texts[i].Len() == 0 && failed[i] == nil
		if _, err := out.Write(texts[i].Bytes()); err != nil {
			return err
		}
	}
	if isEmpty {
		o.note("No line in the logs of the worker pods names run %s.", id)
	}
	return errors.Join(failed...)
}

// readPod prints the lines of a pod's worker.
func (o *logsOptions) readPod(ctx context.Context, core corev1client.CoreV1Interface, pod *corev1.Pod, options corev1.PodLogOptions, id string, out io.Writer) error {
	options.Container = workerContainer(pod)
	stream, err := core.Pods(pod.Namespace).GetLogs(pod.Name, &options).Stream(ctx)
	if err != nil {
		return fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
	}
	defer stream.Close()
	prefix := ""
	if o.prefix {
		prefix = "[pod/" + pod.Name + "] "
	}
	if err := linesAbout(stream, id, prefix, out); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
	}
	return nil
}

// workerContainer returns the container of a pod that executes runs.
func workerContainer(pod *corev1.Pod) string {
	if name := pod.Annotations[v1alpha1.AnnotationWorkerContainer]; name != "" {
		return name
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == "worker" {
			return "worker"
		}
	}
	return pod.Spec.Containers[0].Name
}

// linesAbout copies the lines that have the id as a word.
func linesAbout(log io.Reader, id, prefix string, out io.Writer) error {
	reader := bufio.NewReaderSize(log, 64<<10)
	var text []byte
	skipped := false
	for {
		part, err := reader.ReadSlice('\n')
		if len(text)+len(part) > maxLogLine {
			skipped = true
		} else {
			text = append(text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if !skipped && hasWord(text, id) {
			if _, err := fmt.Fprintf(out, "%s%s\n", prefix, bytes.TrimRight(text, "\r\n")); err != nil {
				return err
			}
		}
		text, skipped = text[:0], false
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// hasWord reports whether the text has the word with no letter, digit, - or _ beside it.
func hasWord(text []byte, word string) bool {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte(word))
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(word)
		if (start == 0 || !wordByte(text[start-1])) && (end == len(text) || !wordByte(text[end])) {
			return true
		}
		from = start + 1
	}
}

func wordByte(b byte) bool {
	return b == '-' || b == '_' || strings.IndexByte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", b) >= 0
}

// lockedWriter lets several goroutines write whole lines.
type lockedWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}
