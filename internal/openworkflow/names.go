package openworkflow

import "strconv"

// Names gives steps their durable names within one pass (R89). Names depend on the order of
// calls, so only the workflow's own goroutine may resolve them.
type Names struct {
	taken map[string]struct{}
	// next is the next index to try for a base that was requested before.
	next map[string]int
}

// NewNames returns an empty set of names, for the start of a pass.
func NewNames() *Names {
	return &Names{taken: map[string]struct{}{}, next: map[string]int{}}
}

// Resolve returns the name under which a step that asked for base is stored: base if it is
// free, otherwise the first free one of base:1, base:2, …
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
