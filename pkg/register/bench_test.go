package register

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// BenchmarkChecks measures what it costs to check 1,000 instances every 5 s over real sockets: the
// processor time per second of the whole process, so that of what answers is in it, and what each
// instance holds. An iteration is a second: give -benchtime 10x.
func BenchmarkChecks(b *testing.B) {
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go server.Serve(listener)
	defer server.Close()
	plain, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	go accept(plain)
	b.Run("none", func(b *testing.B) { benchmarkChecks(b, service.CheckNone, plain.Addr()) })
	b.Run("tcp", func(b *testing.B) { benchmarkChecks(b, service.CheckTCP, plain.Addr()) })
	b.Run("http", func(b *testing.B) { benchmarkChecks(b, service.CheckHTTP, listener.Addr()) })
}

// accept takes connections and closes them.
func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

func benchmarkChecks(b *testing.B, kind service.CheckKind, at net.Addr) {
	b.Helper()
	const many = 1000
	before, goroutines := held(), runtime.NumGoroutine()
	var set []service.Instance
	for n := range many {
		i := with(fmt.Sprintf("i%04d", n), 1, kind)
		i.Container = i.ID
		i.Check.Target, i.Check.HTTPPath = netip.MustParseAddrPort(at.String()), "/"
		set = append(set, i)
	}
	ctx, cancel := context.WithCancel(b.Context())
	in, out, done := make(chan []service.Instance), make(chan []service.Instance), make(chan error, 1)
	go func() { done <- (&Gate{Log: quiet()}).Run(ctx, in, out) }()
	in <- set
	if got := <-out; len(got) != many {
		b.Errorf("let through %d, want %d", len(got), many)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	used := processorTime()
	for b.Loop() {
		<-tick.C
	}
	b.ReportMetric(float64((processorTime()-used).Microseconds())/1000/float64(b.N), "ms-cpu/s")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/many, "goroutines/instance")
	b.ReportMetric(float64(held()-before)/many, "B/instance")
	cancel()
	<-done
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// held is what the process holds in its heap and for its goroutines.
func held() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
