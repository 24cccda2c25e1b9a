package property

import (
	"fmt"
	"math/rand/v2"
)

// Program is a workflow as data.
type Program struct {
	// Retries: the workflow itself is retried when it fails.
	Retries bool   `json:"retries,omitempty"`
	Nodes   []Node `json:"nodes"`
}

// Node is something that a program does. The members that do not belong to Op are zero.
// Durations are in units, of which a test says how long they are.
type Node struct {
	Op Op `json:"op"`
	// Name is the step's; names are few, so that they collide.
	Name string `json:"name,omitempty"`
	// Value is what a step returns, or a signal carries.
	Value int `json:"value,omitempty"`
	// Fails is how many attempts of a step fail, and Attempts how many it has.
	Fails    int `json:"fails,omitempty"`
	Attempts int `json:"attempts,omitempty"`
	// Fatal: the step fails with an error that is not retried; Panics: with a panic.
	Fatal  bool `json:"fatal,omitempty"`
	Panics bool `json:"panics,omitempty"`
	// Catch: the program goes on when the node has failed.
	Catch bool `json:"catch,omitempty"`
	// Units is the length of a sleep or of a timeout; 0 for a wait that a signal ends.
	Units int `json:"units,omitempty"`
	// Signal is what is waited for. There is one wait for each signal.
	Signal string `json:"signal,omitempty"`
	// Limit bounds how many items of a map are under way. If the map is fatal, Item is the
	// first item that fails for good.
	Limit int `json:"limit,omitempty"`
	Item  int `json:"item,omitempty"`
	// Branches are what a parallel, a select or a race node begins. First is the one that a
	// parallel node awaits first; it goes on with the next, and after the last with number 0.
	Branches []Node `json:"branches,omitempty"`
	First    int    `json:"first,omitempty"`
	// Child is what a child run does.
	Child *Program `json:"child,omitempty"`
}

// Op is a kind of node.
type Op string

// Kinds of nodes. The first four can be branches.
const (
	opStep     Op = "step"
	opSleep    Op = "sleep"
	opWait     Op = "wait"
	opChild    Op = "child"
	opSend     Op = "send"
	opMap      Op = "map"
	opParallel Op = "parallel"
	// opSelect begins its branches and goes on with the first that has a result. One of
	// them is quick, the others are forever, so that the result is the same each time.
	opSelect Op = "select"
	// opRace begins its branches and selects one after the other until all have a result. Any may
	// be first. A step stores each choice, and a later execution must find the same.
	opRace Op = "race"
	opFail Op = "fail"
)

// forever is longer than any program lasts.
const forever = 1_000_000

// generator makes programs.
type generator struct {
	*rand.Rand
	signals int
}

// generate returns the program of a seed and a number.
func generate(seed, number uint64) Program {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, number))}
	return g.program(0)
}

const maxDepth = 2

func (g *generator) program(depth int) Program {
	p := Program{Retries: g.IntN(4) == 0}
	for range 1 + g.IntN(5-depth) {
		node := g.node(depth)
		p.Nodes = append(p.Nodes, node)
		if node.Op == opMap && node.Fatal && node.Catch { // which names a failed map takes shows in the next ones
			again := g.step()
			again.Name, again.Fatal = node.Name, false
			p.Nodes = append(p.Nodes, again)
		}
	}
	if g.IntN(8) == 0 {
		p.Nodes = append(p.Nodes, Node{Op: opFail})
	}
	return p
}

func (g *generator) node(depth int) Node {
	switch n := g.IntN(22); {
	case n < 10:
		return g.branch(depth)
	case n < 11:
		return Node{Op: opSend, Name: g.name()}
	case n < 14:
		node := Node{Op: opMap, Name: g.name(), Value: g.IntN(6), Limit: g.IntN(4), Fails: g.IntN(3), Attempts: 1 + g.IntN(3), Catch: g.IntN(2) == 0}
		if node.Value > 0 && g.IntN(2) == 0 {
			node.Item, node.Fatal = g.IntN(node.Value), true
			if g.IntN(2) == 0 { // all items before the one that fails are under way with it, and some are left
				node.Limit, node.Value, node.Fails = node.Item+1, node.Value+2, 0
			}
		}
		return node
	case n < 17:
		node := Node{Op: opParallel, Catch: g.IntN(2) == 0, First: g.IntN(4)}
		for range 2 + g.IntN(3) {
			node.Branches = append(node.Branches, g.branch(depth))
		}
		return node
	case n < 19:
		node := Node{Op: opRace, Name: g.name(), Catch: g.IntN(2) == 0}
		for range 2 + g.IntN(2) {
			node.Branches = append(node.Branches, g.racer())
		}
		return node
	default:
		return g.selection(depth)
	}
}

// branch returns a node that can run in parallel with others.
func (g *generator) branch(depth int) Node {
	switch n := g.IntN(12); {
	case n < 6:
		return g.step()
	case n < 8:
		return Node{Op: opSleep, Name: g.name(), Units: g.IntN(4)}
	case n < 10 || depth == maxDepth:
		node := Node{Op: opWait, Name: g.name(), Signal: g.signal()}
		if g.IntN(3) == 0 { // it is never sent
			node.Units = 1 + g.IntN(3)
		} else {
			node.Value = 1 + g.IntN(100)
		}
		return node
	default:
		node := Node{Op: opChild, Name: g.name(), Catch: g.IntN(2) == 0}
		if g.IntN(4) == 0 { // it takes too long
			node.Units = 1 + g.IntN(3)
			node.Child = &Program{Nodes: []Node{{Op: opSleep, Name: "a", Units: forever}}}
		} else {
			node.Child = new(g.program(depth + 1))
		}
		return node
	}
}

func (g *generator) step() Node {
	node := Node{Op: opStep, Name: g.name(), Value: g.IntN(100), Attempts: 1 + g.IntN(3), Catch: g.IntN(2) == 0}
	switch g.IntN(8) {
	case 0, 1:
		node.Fails = 1 + g.IntN(3)
	case 2:
		node.Fatal = true
	case 3:
		node.Fails, node.Panics = 1, true
	}
	return node
}

func (g *generator) selection(depth int) Node {
	quick := []Node{
		{Op: opStep, Name: g.name(), Value: g.IntN(100), Attempts: 1},
		{Op: opSleep, Name: g.name(), Units: 1},
		{Op: opWait, Name: g.name(), Signal: g.signal(), Value: 1},
	}[g.IntN(3)]
	node := Node{Op: opSelect, Name: g.name()}
	for range 1 + g.IntN(2) {
		slow := Node{Op: opSleep, Name: g.name(), Units: forever}
		switch n := g.IntN(3); {
		case n == 0:
			slow = Node{Op: opWait, Name: g.name(), Signal: g.signal(), Units: forever}
		case n == 1 && depth < maxDepth:
			slow = Node{Op: opChild, Name: g.name(), Child: &Program{Nodes: []Node{slow}}}
		}
		node.Branches = append(node.Branches, slow)
	}
	i := g.IntN(len(node.Branches) + 1)
	node.Branches = append(node.Branches[:i], append([]Node{quick}, node.Branches[i:]...)...)
	return node
}

// racer returns a branch that ends soon, at no certain time.
func (g *generator) racer() Node {
	switch g.IntN(4) {
	case 0:
		return Node{Op: opSleep, Name: g.name(), Units: g.IntN(2)}
	case 1:
		return Node{Op: opWait, Name: g.name(), Signal: g.signal(), Value: 1 + g.IntN(100)}
	default:
		return g.step()
	}
}

func (g *generator) name() string { return []string{"a", "b", "c"}[g.IntN(3)] }

func (g *generator) signal() string {
	g.signals++
	return fmt.Sprint("signal ", g.signals)
}

// sent returns the signals that must be sent, with their data.
func (p Program) sent() map[string]int {
	signals := map[string]int{}
	var collect func(nodes []Node)
	collect = func(nodes []Node) {
		for _, n := range nodes {
			if n.Op == opWait && n.Units == 0 {
				signals[n.Signal] = n.Value
			}
			collect(n.Branches)
			if n.Child != nil {
				collect(n.Child.Nodes)
			}
		}
	}
	collect(p.Nodes)
	return signals
}

// smaller returns programs that lack a part of this one.
func (p Program) smaller() (all []Program) {
	for _, nodes := range fewer(p.Nodes) {
		all = append(all, Program{Retries: p.Retries, Nodes: nodes})
	}
	if p.Retries {
		all = append(all, Program{Nodes: p.Nodes})
	}
	return all
}

func fewer(nodes []Node) (all [][]Node) {
	with := func(i int, replacement ...Node) {
		changed := append([]Node(nil), nodes[:i]...)
		changed = append(changed, replacement...)
		all = append(all, append(changed, nodes[i+1:]...))
	}
	for i, n := range nodes {
		with(i)
		switch {
		case n.Op == opParallel, n.Op == opRace:
			for _, branches := range fewer(n.Branches) {
				change := n
				change.Branches = branches
				with(i, change)
			}
		case n.Child != nil:
			for _, child := range n.Child.smaller() {
				change := n
				change.Child = &child
				with(i, change)
			}
		}
	}
	return all
}
