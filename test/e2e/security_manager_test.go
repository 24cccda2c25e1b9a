//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// managerProcess is the manager, as this machine sees it: the nodes' processes are its own.
type managerProcess struct {
	*cluster
	pid    string
	before managerState
}

// managerState is what must not change while the manager is attacked.
type managerState struct {
	Pod, Leader string
	Restarts    int32
	// Terms is how often the leader has changed.
	Terms string
}

func newManagerProcess(c *cluster) *managerProcess {
	system := *c
	system.namespace = "openworkflow-system"
	return &managerProcess{cluster: &system}
}

// reset begins to observe.
func (m *managerProcess) reset() {
	m.Helper()
	pod := m.runningPod()
	m.before = m.state(pod)
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	m.pid = m.processOf(id)
	// Sets the highest resident size to the current one.
	if err := os.WriteFile(filepath.Join("/proc", m.pid, "clear_refs"), []byte("5"), 0); err != nil {
		m.Fatal(err)
	}
	m.Logf("the manager has %d MiB resident", m.memory("VmRSS")>>20)
}

// check asserts that the manager is the same process as at the reset, was the leader all the
// time, and never had more memory than it may.
func (m *managerProcess) check() {
	m.Helper()
	if after := m.state(m.runningPod()); after != m.before {
		m.Errorf("the manager was %+v, and is %+v", m.before, after)
		m.Log(m.kubectl("-n", m.namespace, "logs", "deployment/openworkflow-manager", "--previous", "--tail=40", "--ignore-errors"))
		return
	}
	highest := m.memory("VmHWM")
	m.Logf("the manager had up to %d MiB resident, and has %d MiB", highest>>20, m.memory("VmRSS")>>20)
	if highest > memoryLimit {
		m.Errorf("the manager had %d MiB resident, the limit is %d MiB", highest>>20, memoryLimit>>20)
	}
}

// runningPod returns the pod of the manager. It has one replica.
func (m *managerProcess) runningPod() *corev1.Pod {
	m.Helper()
	var list corev1.PodList
	m.get(&list, "pods", "-l", "app.kubernetes.io/name=openworkflow")
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil && len(pod.Status.ContainerStatuses) == 1 {
			return &pod
		}
	}
	m.Fatalf("%d pods of the manager, none of them runs", len(list.Items))
	return nil
}

func (m *managerProcess) state(pod *corev1.Pod) managerState {
	m.Helper()
	lease := m.kubectl("-n", m.namespace, "get", "lease", "manager.openworkflow.dev",
		"-o", "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}")
	leader, terms, _ := strings.Cut(lease, " ")
	return managerState{Pod: pod.Name, Leader: leader, Terms: terms, Restarts: pod.Status.ContainerStatuses[0].RestartCount}
}

// processOf returns the id of a container's process: that whose control groups name the container.
func (m *managerProcess) processOf(container string) string {
	m.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		m.Fatal(err)
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err == nil && bytes.Contains(groups, []byte(container)) {
			return filepath.Base(filepath.Dir(file))
		}
	}
	m.Fatalf("no process of this machine is in container %s", container)
	return ""
}

// memory returns a size of the process, in bytes.
func (m *managerProcess) memory(which string) int {
	m.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", m.pid, "status"))
	if err != nil {
		m.Fatalf("the manager's process has ended: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		if name, value, _ := strings.Cut(line, ":"); name == which {
			kilobytes, err = strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				m.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	panic(fmt.Sprintf("no %s in /proc", which))
}
