// Command whoami is the smallest web server worth routing to: it says which container answered, and
// what it was asked. The demo, the end-to-end tests and the pages of the documentation use it as
// the application behind the proxy.
//
// How it starts and how it stops can be chosen, because that is what a proxy has to live with: it
// may take a while before it listens, and after its stop signal it either goes on accepting for a
// time, as a well-behaved application does, or is gone at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	opts, err := parse(os.Args[1:], os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "whoami:", err)
		os.Exit(1)
	}
}

// options is how the server behaves; every flag can be given by the environment variable named
// beside it.
type options struct {
	addr  string        // ADDRESS: where it listens; on all addresses if empty
	port  int           // PORT
	name  string        // NAME: what it calls itself; the host name, which is the container's short id
	delay time.Duration // DELAY: how long it takes before it listens
	grace time.Duration // GRACE: how long it goes on accepting after its stop signal; 0 = gone at once
	check bool          // ask the server on this port for its health instead of being one
}

// parse reads the command line, with the environment for what it does not say.
func parse(args []string, env func(string) string) (options, error) {
	host, err := os.Hostname()
	if err != nil {
		return options{}, fmt.Errorf("read the host name: %w", err)
	}
	o := options{}
	fs := flag.NewFlagSet("whoami", flag.ContinueOnError)
	fs.StringVar(&o.addr, "address", "", "address to listen on; empty = all (ADDRESS)")
	fs.IntVar(&o.port, "port", 8000, "port to listen on (PORT)")
	fs.StringVar(&o.name, "name", host, "name to answer with (NAME)")
	fs.DurationVar(&o.delay, "delay", 0, "wait before listening (DELAY)")
	fs.DurationVar(&o.grace, "grace", time.Second, "go on accepting after the stop signal; 0 = exit at once (GRACE)")
	fs.BoolVar(&o.check, "check", false, "ask the server on this port for its health, and exit 0 or 1")
	for flagName, variable := range map[string]string{"address": "ADDRESS", "port": "PORT", "name": "NAME", "delay": "DELAY", "grace": "GRACE"} {
		if v := env(variable); v != "" {
			if err := fs.Set(flagName, v); err != nil {
				return options{}, fmt.Errorf("%s=%s: %w", variable, v, err)
			}
		}
	}
	return o, fs.Parse(args)
}

// run serves until a stop signal, and then behaves as o.grace says.
func run(o options) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if o.check {
		return health(o.port)
	}
	select {
	case <-time.After(o.delay):
	case <-stop:
		return nil
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(o.addr, strconv.Itoa(o.port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{Handler: handler(o.name, time.Now()), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	fmt.Printf("whoami: %s listens on %s\n", o.name, ln.Addr())
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-stop:
		return leave(srv, o.grace)
	}
}

// leave ends the server: at once, cutting what is in flight, or after the grace, letting it finish.
func leave(srv *http.Server, grace time.Duration) error {
	if grace <= 0 {
		return nil
	}
	<-time.After(grace)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return srv.Shutdown(ctx)
}

// maxWait bounds what ?wait= may ask for.
const maxWait = 5 * time.Minute

// handler answers each request with the server's name and what it was asked. `?wait=2s` makes it
// think for that long first. since is when the server began to listen.
func handler(name string, since time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, "the body ended early", http.StatusBadRequest)
			return
		}
		if wait, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			select {
			case <-time.After(min(wait, maxWait)):
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("X-Whoami", name)
		w.Header().Set("X-Whoami-Since", strconv.FormatInt(since.UnixNano(), 10))
		w.Header().Set("X-Whoami-Bytes", strconv.FormatInt(n, 10))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		//nolint:gosec // plain text, said by its content type
		fmt.Fprintf(w, "I am %s\n%s %s, %d bytes of body\n", name, r.Method, r.URL.Path, n)
	})
	return mux
}

// health asks the server on this port whether it serves. An image built on scratch has no other
// program that could be its HEALTHCHECK.
func health(port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
