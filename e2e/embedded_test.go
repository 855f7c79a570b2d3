package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestFromOneHostToACluster follows deploy/one-host.md: an agent with an etcd of its own is pointed at
// another etcd, and back, under load. What it registers is there at once, and no request is lost.
func TestFromOneHostToACluster(t *testing.T) {
	w := newWorld(t)
	w.startProxy()
	w.startAgent()
	shop := app{service: "shop"}
	a, b := w.container(shop), w.container(shop)
	w.answeredBy(shop, a, b)
	w.does("weight", "shop", "50", "--state-dir", w.path("state"))
	traffic := w.load(shop)
	w.flows(traffic, 50)

	own := w.registry
	w.check(w.agent.End(patience))
	w.startEtcd()
	w.startAgent()
	w.registeredIn(2)
	w.check(os.RemoveAll(w.path("state/etcd")))
	w.flows(traffic, 100)
	c := w.container(shop)
	w.answeredBy(shop, a, b, c)
	w.inStep()
	if keys := w.keysBelow("/sidekick/v1/overrides/"); len(keys) > 0 {
		t.Errorf("overrides %v were carried over; the page says that they are not", keys)
	}

	w.check(w.agent.End(patience))
	w.registry = own
	w.startAgent()
	w.flows(traffic, 100)
	d := w.container(shop)
	w.answeredBy(shop, a, b, c, d)
	w.inStep()
	w.noneFailed(traffic)
}

// registeredIn waits until the cluster's etcd has that many instances.
func (w *world) registeredIn(number int) {
	w.Helper()
	w.until(fmt.Sprintf("%d instances are registered", number), func() error {
		if keys := w.keysBelow("/sidekick/v1/instances/"); len(keys) != number {
			return fmt.Errorf("there are %v", keys)
		}
		return nil
	})
}

// keysBelow are the keys of the cluster's etcd that begin so.
func (w *world) keysBelow(prefix string) (keys []string) {
	w.Helper()
	answer, err := w.registryClient().Get(w.ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	w.check(err)
	for _, kv := range answer.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

var _ = errors.New
var _ = slices.Contains[[]int]
var _ = strings.Cut
