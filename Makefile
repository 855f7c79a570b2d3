SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help

# WITHOUT="docker haproxy" leaves the tests out that need these; the last line counts them.
WITHOUT ?=
export TEST_WITHOUT := $(WITHOUT)

# The version is stamped below; a checkout that git does not trust must build as well.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOL    := go tool -modfile=tools/go.mod
TAG     ?= latest
UNIT    := $$(go list ./... | grep -vE '/e2e(/hosts)?$$|/pkg/(registry|haproxy|render)($$|/)')

.PHONY: help build image demo test check unit driver texts registry fuzz e2e e2e-hosts bench bench-fleet docs golden lint soak deps images static format vet tidy staticcheck once clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

build: ## bin/sidekick and bin/whoami, static
	@CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sidekick ./cmd/sidekick
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/whoami ./examples/whoami

image: build ## sidekick:latest and sidekick-whoami:latest, from binaries built here (TAG=…)
	@docker image inspect debian:trixie-slim >/dev/null 2>&1 || docker pull -q debian:trixie-slim || scripts/images >/dev/null
	@docker build --target prebuilt -t sidekick:$(TAG) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) .
	@docker build --target prebuilt -t sidekick-whoami:$(TAG) -f examples/whoami/Dockerfile bin

demo: ## three containers behind HAProxy, replaced under load (HTTP_PORT, ADMIN_PORT, ONCE=1)
	@scripts/deps demo
	@$(MAKE) -s build
	@go build -o bin/demo ./examples/demo && exec bin/demo $(if $(ONCE),-once)

test: ## everything, as the CI runs it
	@scripts/stages deps:120 images:120 static:180 unit:240 e2e:1000/driver:600,fuzz:180/registry:300,texts:300,e2e-hosts:240 once:90

check: ## the fast part: format, vet, staticcheck, tidiness, unit tests
	@scripts/stages static:180 staticcheck:180 quick:240

deps: ## install what the tests need (Debian, root) and ask whether the engine answers
	@scripts/deps test

images: ## what cannot be pulled, from Debian's packages: the image's base, HAProxy 3.0, Compose v2
	@scripts/images >/dev/null

static: format vet tidy

format:
	@files=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...)); [ -z "$$files" ] || { echo "not formatted, run gofmt -w on:" $$files; exit 1; }

vet:
	@go vet ./...

tidy:
	@go mod tidy -diff

staticcheck:
	@$(TOOL) staticcheck ./...

quick:
	@scripts/gotest $(UNIT) ./pkg/haproxy/... ./pkg/render/... ./pkg/registry/...

unit: ## unit tests with the race detector, engine included, but for those below
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -race $(UNIT)

driver: ## unit tests of what drives HAProxy with the race detector, HAProxy 2.6 and 3.0
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -race -timeout 20m ./pkg/haproxy/...

# They are made by one goroutine, and the driver behind their traffic has its own tests for races.
texts: ## unit tests of what the template makes, and traffic through it, HAProxy 2.6 and 3.0
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -timeout 15m ./pkg/render/...

registry: ## unit tests of the registries with the race detector and real etcd; most of their time is waiting
	@scripts/gotest -race ./pkg/registry/...

fuzz: ## every fuzz target, then random histories of containers, FUZZTIME seconds for each of the two
	@scripts/fuzz $${FUZZTIME:-20}

# What needs the machine's engine runs alone; the rest waits more than it works.
e2e: build ## the binary with a real engine, HAProxy 2.6 and 3.0, and etcd, under load
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -parallel 4 -timeout 25m ./e2e

e2e-hosts: ## three hosts with all that runs on them, one fault after the other under load; the table goes to .stages/faults.md
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -timeout 10m ./e2e/hosts

once:
	@case " $(WITHOUT) " in *" docker "*|*" haproxy "*) echo "left out on demand: the demo"; scripts/gotest -left-out demo;; \
	  *) $(MAKE) -s demo ONCE=1;; esac

bench: build ## how fast, beside a hand-made lower bound, with HAProxy 2.6 and 3.0 (BENCH="-only driver,burst …")
	@go run ./bench -haproxy haproxy:$$(scripts/images)/haproxy-3.0 $(BENCH)
	@go test ./pkg/haproxy ./pkg/render ./pkg/docker -run '^$$' -bench 'Plan|Place|Render|Events|Relist' -benchtime 0.5s
	@go test ./pkg/register -run '^$$' -bench Checks -benchtime 10x
	@go test ./e2e/histories -run '^$$' -bench . -benchtime 100x

bench-fleet: build ## what 1,000 agents cost one etcd, and one agent among 100,000 instances (FLEET="-agents 50 -steady 5s -burst 5s …")
	@go run ./bench fleet -haproxy $$(scripts/images)/haproxy-3.0 $(FLEET)

docs: ## write what docs/template.md says of the model, the functions and the built-in template anew
	@go run ./internal/modeldoc

golden: ## write the expected files of the golden tests anew
	@go test -run 'Golden|Script' ./pkg/render/... ./cmd/sidekick/... -update

lint: ## golangci-lint, compiled from source: takes minutes the first time
	@$(TOOL) golangci-lint run ./...

soak: ## random faults around HAProxy, random histories of containers and of the registry, and fuzz targets, an hour each (SOAKTIME, SOAKSEED, FUZZTIME), and the tests under load
	@TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 SOAKTIME=$${SOAKTIME:-3600} TEST_WITHOUT="$(WITHOUT) docker" scripts/gotest -timeout 0 -run TestSoak ./e2e
	@SOAKTIME=$${SOAKTIME:-3600} scripts/gotest -timeout 0 ./e2e/histories -run AnyHistory -rapid.checks=$$(($${SOAKTIME:-3600} * 100)) -rapid.seed=$${SOAKSEED:-0}
	@SOAKTIME=$${SOAKTIME:-3600} scripts/gotest -timeout 0 ./pkg/registry/etcd -run AnyHistory -rapid.checks=$$(($${SOAKTIME:-3600} * 100)) -rapid.seed=$${SOAKSEED:-0}
	@scripts/fuzz $${FUZZTIME:-3600}
	@TEST_SOAK=1 SOAKTIME=$${SOAKTIME:-3600} TEST_HAPROXY=$$(scripts/images)/haproxy-3.0 scripts/gotest -timeout 0 -run UnderLoad ./e2e

clean: ## remove what make made
	@rm -rf bin .stages
