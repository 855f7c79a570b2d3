// Command probe looks at a host from within. As `probe`, it is a web server on port 8000 that tells
// about its container; as `probe URL`, it asks another one and prints the answer.
//
//	/        its process: a word that no other start has
//	/engine  the status with which the engine at /run/docker.sock answers
//	/get?URL what it gets when it asks another server
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		answer, err := ask(new(http.Client), os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			os.Exit(1)
		}
		fmt.Print(answer)
		return
	}
	start := rand.Text()
	http.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, start) })
	http.HandleFunc("/engine", func(w http.ResponseWriter, _ *http.Request) {
		engine := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", "/run/docker.sock")
			},
		}}
		reply(w, engine, "http://engine/_ping")
	})
	http.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) { reply(w, new(http.Client), r.URL.RawQuery) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8000", nil))
}

func reply(w http.ResponseWriter, client *http.Client, url string) {
	answer, err := ask(client, url)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprint(w, answer)
}

func ask(client *http.Client, url string) (string, error) {
	client.Timeout = 2 * time.Second
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
