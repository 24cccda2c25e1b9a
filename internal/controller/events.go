package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

// Events of one namespace: so many at once, and so many per second after that.
const eventBurst, eventRate = 300, 2.0

// limitedEvents bounds the events of a namespace. The recorder below it joins equal events of one
// object, but keeps each other one in memory for six minutes, and whoever may create objects
// causes one for each. What an event says is in the status too, so the rest is dropped.
type limitedEvents struct {
	events.EventRecorder

	mu      sync.Mutex
	buckets map[string]eventBucket // by namespace
}

// eventBucket is how many events a namespace may have.
type eventBucket struct {
	tokens float64
	at     time.Time
}

// Eventf records an event if the namespace of its object has had few lately.
func (l *limitedEvents) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	namespace := ""
	if object, err := meta.Accessor(regarding); err == nil {
		namespace = object.GetNamespace()
	}
	if l.take(namespace, time.Now()) {
		l.EventRecorder.Eventf(regarding, related, kind, reason, action, note, args...)
	}
}

func (l *limitedEvents) take(namespace string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	const maxIdle = 1000
	if len(l.buckets) > maxIdle {
		for name, b := range l.buckets {
			if b.refilled(now) == eventBurst {
				delete(l.buckets, name)
			}
		}
	}
	bucket, ok := l.buckets[namespace]
	tokens := bucket.refilled(now)
	if !ok {
		tokens = eventBurst
	}
	taken := tokens >= 1
	if taken {
		tokens--
	}
	if l.buckets == nil {
		l.buckets = map[string]eventBucket{}
	}
	l.buckets[namespace] = eventBucket{tokens, now}
	return taken
}

func (b eventBucket) refilled(now time.Time) float64 {
	return min(b.tokens+eventRate*now.Sub(b.at).Seconds(), eventBurst)
}
