// Go's own recipes as a peer: `peer ROLE SETTINGS` answers orders, JSON line by line, like a worker of coordkit's
// benchmarks, and writes down what it saw in the same form, so that the same checkers judge it.
//
// Each contender has a session of its own, as Go's recipes want it: the goroutines of one session share its lock.
//
// Built with Debian's golang-go and golang-etcd-server-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o peer .
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
	"golang.org/x/sys/unix"
)

// Settings are those of every role; each uses what it needs.
type Settings struct {
	Endpoint   string   `json:"endpoint"`
	Name       string   `json:"name"` // the prefix of the lock, the key of the counter ...
	Labels     []string `json:"labels"`
	HoldS      float64  `json:"hold_s"`
	TTL        int      `json:"ttl"`
	WriteEvery int      `json:"write_every"` // rwmutex: one of so many holds is a writer's
	Size       int      `json:"size"`        // of a value, in bytes
	Own        bool     `json:"own"`         // each contender has a lock of its own
}

// Order is one round.
type Order struct {
	StartNs     int64  `json:"start_ns"`
	MeasureNs   int64  `json:"measure_ns"`
	UntilNs     int64  `json:"until_ns"`
	HistoryPath string `json:"history_path"`
}

// Operation is a line of a history.
type Operation struct {
	Kind        string `json:"kind"`
	Result      string `json:"result"`
	Process     int    `json:"process"`
	Contender   string `json:"contender"`
	Index       int    `json:"index"`
	InvokedNs   int64  `json:"invoked_ns"`
	CompletedNs int64  `json:"completed_ns,omitempty"`
	Name        string `json:"name"`
	Fence       int64  `json:"fence,omitempty"`
	Revision    int64  `json:"revision,omitempty"`
	Error       string `json:"error,omitempty"`
	Subject     string `json:"subject"`
	Number      int64  `json:"number,omitempty"`
}

// Contender does one cycle at a time, and notes it.
type Contender interface {
	Cycle(ctx context.Context, note *Notes) error
}

// Notes are what one contender saw.
type Notes struct {
	label      string
	name       string
	index      int
	operations []Operation
}

// Call makes a call and writes it down; `fill` adds what only its result knows.
func (n *Notes) Call(kind string, action func() error, fill func(*Operation)) error {
	operation := Operation{Kind: kind, Process: os.Getpid(), Contender: n.label, Name: n.name, Index: n.index, InvokedNs: now()}
	n.index++
	err := action()
	if err != nil {
		operation.Result, operation.Error = "unknown", err.Error()
	} else {
		operation.Result, operation.CompletedNs = "ok", now()
		if fill != nil {
			fill(&operation)
		}
	}
	n.operations = append(n.operations, operation)
	return err
}

var roles = map[string]func(*clientv3.Client, Settings, string) (Contender, error){
	"mutex":    newMutex,
	"election": newElection,
	"rwmutex":  newRWMutex,
	"counter":  newCounter,
	"put":      newPut,
	"enqueue":  newEnqueue,
	"dequeue":  newDequeue,
}

func now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic(err)
	}
	return at.Nano()
}

func cpu() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &at); err != nil {
		panic(err)
	}
	return at.Nano()
}

func sleepUntil(moment int64) {
	if left := moment - now(); left > 0 {
		time.Sleep(time.Duration(left))
	}
}

func say(answer map[string]interface{}) {
	line, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(append(line, '\n'))
}

func fail(err error) {
	say(map[string]interface{}{"error": err.Error()})
	os.Exit(1)
}

func main() {
	var settings Settings
	if len(os.Args) != 3 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer ROLE SETTINGS")
		os.Exit(2)
	}
	if err := json.Unmarshal([]byte(os.Args[2]), &settings); err != nil {
		fail(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{settings.Endpoint}, DialTimeout: 5 * time.Second,
	})
	if err != nil {
		fail(err)
	}
	contenders := make([]Contender, len(settings.Labels))
	notes := make([]*Notes, len(settings.Labels))
	for number, label := range settings.Labels {
		one := settings
		notes[number] = &Notes{label: label}
		if settings.Own {
			one.Name = settings.Name + label + "/"
			notes[number].name = one.Name
		}
		if contenders[number], err = roles[os.Args[1]](client, one, label); err != nil {
			fail(err)
		}
	}
	say(map[string]interface{}{"ready": true})

	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil { // the parent is done, or gone
			return
		}
		var message struct {
			LimitS float64 `json:"limit_s"`
			Order  Order   `json:"order"`
		}
		if err := json.Unmarshal(line, &message); err != nil {
			fail(err)
		}
		limit := time.Duration(message.LimitS * float64(time.Second))
		if err := round(contenders, notes, message.Order, limit); err != nil {
			fail(err)
		}
	}
}

// round lets all contend from start to end.
func round(contenders []Contender, notes []*Notes, order Order, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var group sync.WaitGroup
	errs := make(chan error, len(contenders))
	for number := range contenders {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			sleepUntil(order.StartNs)
			for now() < order.UntilNs {
				if err := contenders[number].Cycle(ctx, notes[number]); err != nil {
					errs <- fmt.Errorf("contender %s: %v", notes[number].label, err)
					return
				}
			}
		}(number)
	}
	sleepUntil(order.MeasureNs)
	before := cpu()
	sleepUntil(order.UntilNs)
	after := cpu()
	group.Wait()
	if err := save(order.HistoryPath, notes); err != nil {
		return err
	}
	select {
	case err := <-errs:
		return err
	default:
	}
	say(map[string]interface{}{"cpu_ns": after - before})
	return nil
}

func save(path string, notes []*Notes) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	writer := bufio.NewWriter(file)
	encoder := json.NewEncoder(writer)
	for _, note := range notes {
		for _, operation := range note.operations {
			if err := encoder.Encode(operation); err != nil {
				return err
			}
		}
		note.operations = nil
	}
	return writer.Flush()
}
