package admin

import (
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestEmptyServiceSaysWhy: since when, what its clients get, and how long it is kept.
func TestEmptyServiceSaysWhy(t *testing.T) {
	for _, tt := range []struct{ value, want string }{
		{
			`{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"]}`,
			"no instances since 2026-11-22T12:00:00Z: requests get 503 until there are some; it is kept until 2026-11-22T13:00:00Z at least",
		},
		{
			`{"service":"web","address":"10.0.0.1","port":80,"mode":"tcp","listen":9000}`,
			"no instances since 2026-11-22T12:00:00Z: connections are closed until there are some; it is kept until 2026-11-22T13:00:00Z at least",
		},
	} {
		b := service.NewBuilder("/p")
		b.Put("/p/v1/instances/n/1", []byte(tt.value))
		empty := b.Catalog(1).Service("web").Emptied()
		empty.Since = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		empty.Until = empty.Since.Add(time.Hour)
		c := (&service.Catalog{Prefix: "/p"}).WithEmpty([]*service.Service{empty})
		list := Services(c, render.Build(render.Input{Catalog: c}, render.Settings{Node: "n", HTTPListen: ":80"}), nil, nil, time.Now())
		if len(list) != 1 || list[0].Why != tt.want {
			t.Errorf("got %+v, want %q", list, tt.want)
		}
	}
}
