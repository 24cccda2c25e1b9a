package openworkflow

import "strconv"

// Names gives steps their durable names within one pass (R89). The order of
// calls decides, so only the workflow's own goroutine may resolve names.
type Names struct {
	taken map[string]struct{}
	// next is the index to try next for a base that was requested before.
	next map[string]int
}

// NewNames returns the empty set of names with which a pass begins.
func NewNames() *Names {
	return &Names{taken: map[string]struct{}{}, next: map[string]int{}}
}

// Resolve returns the name under which a step that asked for base is stored:
// base itself when it is free, else the first free base:1, base:2, …
func (n *Names) Resolve(base string) string {
	name := base
	if _, ok := n.taken[name]; ok {
		i := max(n.next[base], 1)
		for ; ok; i++ {
			name = base + ":" + strconv.Itoa(i)
			_, ok = n.taken[name]
		}
		n.next[base] = i
	}
	n.taken[name] = struct{}{}
	return name
}
