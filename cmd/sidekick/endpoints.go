package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/filepoll"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// followEndpoints takes up other hosts of the registry from the configuration file while the agent
// runs. What cannot be taken up is logged once, and what is in force stays.
func (a *agent) followEndpoints(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	texts := make(chan filepoll.Content)
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { _ = filepoll.Run(ctx, a.config, time.Second, texts) }) // ends with ctx alone
	log := a.stageLog(admin.StageRegister).WithField("config", a.config)
	stop, complained := func() {}, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-texts:
		}
		endpoints, err := a.endpointsInFile()
		switch {
		case err != nil && err.Error() != complained:
			complained = err.Error()
			log.WithError(err).Warn("the changed configuration file is not taken up; the registry's hosts stay what they are")
		case err == nil:
			complained = ""
			if !slices.Equal(endpoints, a.client.Endpoints()) {
				log.WithField("endpoints", endpoints).Info("the registry's hosts have changed in the configuration file; going there")
				stop()
				stop = a.move(ctx, &others, endpoints)
			}
		}
	}
}

// move goes to other hosts in the background. They need not answer yet.
func (a *agent) move(ctx context.Context, group *sync.WaitGroup, endpoints []string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.client.SetEndpoints(endpoints...)
	group.Go(func() { etcd.Leave(ctx, a.client) })
	return cancel
}

// endpointsInFile reads the registry's hosts from the configuration file as it is now. Only hosts may
// be others than those that the agent began with.
func (a *agent) endpointsInFile() ([]string, error) {
	now := newSettings()
	now.config = a.config
	if err := now.loadFile(); err != nil {
		return nil, err
	}
	was, _, _ := strings.Cut(a.registry, "://")
	scheme, _, _ := strings.Cut(now.registry, "://")
	hosts := scheme == "etcd" || scheme == "etcds"
	switch {
	case now.registry == "":
		return nil, errors.New("registry is missing")
	case now.registry == a.registry && !hosts:
		return a.client.Endpoints(), nil
	case scheme != was || !hosts:
		return nil, fmt.Errorf("registry: %s instead of %s needs a restart of the agent: only the hosts of etcd:// and of etcds:// are taken up", now.registry, a.registry)
	}
	return etcd.ParseURL(now.registry)
}
