package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAnswerNamesServerAndRequest(t *testing.T) {
	srv := httptest.NewServer(handler("box-1", time.Now()))
	defer srv.Close()
	resp, err := srv.Client().Post(srv.URL+"/a/b?wait=1ms", "text/plain", strings.NewReader("12345"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(body), "I am box-1\nPOST /a/b, 5 bytes of body\n"; got != want {
		t.Errorf("body: got %q, want %q", got, want)
	}
	if got, want := resp.Header.Get("X-Whoami"), "box-1"; got != want {
		t.Errorf("X-Whoami: got %q, want %q", got, want)
	}
	if got, want := resp.Header.Get("X-Whoami-Bytes"), "5"; got != want {
		t.Errorf("X-Whoami-Bytes: got %q, want %q", got, want)
	}
}

func TestHealth(t *testing.T) {
	rec := httptest.NewRecorder()
	handler("box-1", time.Now()).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/healthz", http.NoBody))
	if got, want := rec.Body.String(), "ok\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParse(t *testing.T) {
	env := map[string]string{"PORT": "81", "GRACE": "0s", "DELAY": "2s", "NAME": "env"}
	got, err := parse([]string{"-name", "flag"}, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	if want := (options{port: 81, name: "flag", delay: 2 * time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := parse(nil, func(k string) string { return map[string]string{"GRACE": "soon"}[k] }); err == nil || !strings.Contains(err.Error(), "GRACE=soon") {
		t.Errorf("a grace that is no duration: got %v, want an error that names GRACE=soon", err)
	}
}
