package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
	pb "go.etcd.io/etcd/etcdserver/etcdserverpb"
)

func newSession(client *clientv3.Client, settings Settings) (*concurrency.Session, error) {
	ttl := settings.TTL
	if ttl == 0 {
		ttl = 10
	}
	return concurrency.NewSession(client, concurrency.WithTTL(ttl))
}

func hold(settings Settings) {
	if settings.HoldS > 0 {
		time.Sleep(time.Duration(settings.HoldS * float64(time.Second)))
	}
}

// --- concurrency.Mutex

type mutex struct {
	lock     *concurrency.Mutex
	settings Settings
}

func newMutex(client *clientv3.Client, settings Settings, _ string) (Contender, error) {
	session, err := newSession(client, settings)
	if err != nil {
		return nil, err
	}
	return &mutex{concurrency.NewMutex(session, settings.Name), settings}, nil
}

func (m *mutex) Cycle(ctx context.Context, note *Notes) error {
	var fence int64
	err := note.Call("acquire", func() error { return m.lock.Lock(ctx) }, func(told *Operation) {
		owner := pb.Compare(m.lock.IsOwner())
		fence = owner.GetCreateRevision()
		told.Fence = fence
	})
	if err != nil {
		return err
	}
	hold(m.settings)
	return note.Call("release", func() error { return m.lock.Unlock(ctx) }, func(told *Operation) {
		told.Fence = fence
	})
}

// --- concurrency.Election

type election struct {
	election *concurrency.Election
	settings Settings
	value    string
}

func newElection(client *clientv3.Client, settings Settings, label string) (Contender, error) {
	session, err := newSession(client, settings)
	if err != nil {
		return nil, err
	}
	return &election{concurrency.NewElection(session, settings.Name), settings, label}, nil
}

func (e *election) Cycle(ctx context.Context, note *Notes) error {
	var fence int64
	err := note.Call("acquire", func() error { return e.election.Campaign(ctx, e.value) }, func(told *Operation) {
		fence = e.election.Rev()
		told.Fence = fence
	})
	if err != nil {
		return err
	}
	hold(e.settings)
	return note.Call("release", func() error { return e.election.Resign(ctx) }, func(told *Operation) {
		told.Fence = fence
	})
}

// --- recipes.RWMutex

type rwmutex struct {
	lock     *recipe.RWMutex
	settings Settings
	cycles   int
}

func newRWMutex(client *clientv3.Client, settings Settings, label string) (Contender, error) {
	session, err := newSession(client, settings)
	if err != nil {
		return nil, err
	}
	// Not all write at once: each begins elsewhere in its sequence; a label that is no number at its beginning.
	first, _ := strconv.Atoi(label)
	return &rwmutex{recipe.NewRWMutex(session, settings.Name), settings, first}, nil
}

// Cycle tells no fence: an RWMutex does not say what its key is.
func (m *rwmutex) Cycle(_ context.Context, note *Notes) error {
	m.cycles++
	kind, lock, unlock := "read", m.lock.RLock, m.lock.RUnlock
	if m.settings.WriteEvery > 0 && m.cycles%m.settings.WriteEvery == 0 {
		kind, lock, unlock = "write", m.lock.Lock, m.lock.Unlock
	}
	subject := func(told *Operation) { told.Subject = kind }
	if err := note.Call("acquire", lock, subject); err != nil {
		return err
	}
	hold(m.settings)
	return note.Call("release", unlock, subject)
}

// --- a counter by software transactional memory

type counter struct {
	client *clientv3.Client
	key    string
}

func newCounter(client *clientv3.Client, settings Settings, _ string) (Contender, error) {
	return &counter{client, settings.Name}, nil
}

func (c *counter) Cycle(ctx context.Context, note *Notes) error {
	var value int64
	add := func(stm concurrency.STM) error {
		value = 0
		if text := stm.Get(c.key); text != "" {
			if _, err := fmt.Sscan(text, &value); err != nil {
				return err
			}
		}
		value++
		stm.Put(c.key, fmt.Sprint(value))
		return nil
	}
	return note.Call("add", func() error {
		_, err := concurrency.NewSTM(c.client, add, concurrency.WithAbortContext(ctx))
		return err
	}, func(told *Operation) {
		told.Number, told.Subject = 1, fmt.Sprint(value)
	})
}

// --- puts, and contrib/recipes' Queue

type put struct {
	client     *clientv3.Client
	key, value string
}

func newPut(client *clientv3.Client, settings Settings, label string) (Contender, error) {
	return &put{client, settings.Name + label, strings.Repeat("x", settings.Size)}, nil
}

func (p *put) Cycle(ctx context.Context, note *Notes) error {
	return note.Call("put", func() error {
		_, err := p.client.Put(ctx, p.key, p.value)
		return err
	}, nil)
}

type queue struct {
	queue *recipe.Queue
	value string
	label string
	next  int
}

func newQueue(client *clientv3.Client, settings Settings, label string) *queue {
	return &queue{recipe.NewQueue(client, settings.Name), strings.Repeat("x", settings.Size), label, 0}
}

type enqueue struct{ *queue }
type dequeue struct{ *queue }

func newEnqueue(client *clientv3.Client, settings Settings, label string) (Contender, error) {
	return &enqueue{newQueue(client, settings, label)}, nil
}

func newDequeue(client *clientv3.Client, settings Settings, label string) (Contender, error) {
	return &dequeue{newQueue(client, settings, label)}, nil
}

func (q *enqueue) Cycle(_ context.Context, note *Notes) error {
	q.next++
	subject := fmt.Sprintf("%s-%d", q.label, q.next)
	return note.Call("put", func() error { return q.queue.queue.Enqueue(subject + " " + q.value) }, func(told *Operation) {
		told.Subject = subject
	})
}

// Cycle waits for ever on an empty queue: the round's parent sees to it that there is enough.
func (q *dequeue) Cycle(_ context.Context, note *Notes) error {
	var item string
	return note.Call("claim", func() (err error) {
		item, err = q.queue.queue.Dequeue()
		return err
	}, func(told *Operation) {
		told.Subject = strings.SplitN(item, " ", 2)[0]
	})
}
