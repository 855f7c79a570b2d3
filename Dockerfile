# The image of Sidekick: the agent, and HAProxy for it to drive. One image is both containers of a
# host: `sidekick run --haproxy external` and `sidekick haproxy`.
#
#   docker build -t sidekick .    builds the agent too: needs the golang image and the Go module proxy
#   make image                    the same around bin/sidekick, where no builder image can be had

FROM debian:trixie-slim AS base
# Both start as root, to find the group of the engine's socket and to keep the right to bind ports
# below 1024, and at once become a user of their own (SIDEKICK_USER). They share /run/sidekick by its
# group, which all files and sockets in it inherit.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates haproxy \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* /etc/haproxy \
 && groupadd --gid 7070 sidekick \
 && useradd --uid 7070 --gid sidekick --no-create-home --home-dir /var/lib/sidekick --shell /usr/sbin/nologin sidekick \
 && usermod --append --groups sidekick haproxy \
 && install -d -o root -g sidekick -m 2770 /run/sidekick \
 && install -d -o sidekick -g sidekick -m 0700 /var/lib/sidekick
ENV SIDEKICK_USER=sidekick
ENTRYPOINT ["sidekick"]
CMD ["run"]
# Asks only whether the agent lives: an outage of etcd must not make a healer restart anything.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["sidekick", "status", "--alive"]
ARG VERSION=devel
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="Sidekick" \
      org.opencontainers.image.description="Service discovery and HAProxy for plain Docker hosts" \
      org.opencontainers.image.source="https://github.com/sidekick-proxy/sidekick" \
      org.opencontainers.image.documentation="https://github.com/sidekick-proxy/sidekick#readme" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="debian:trixie-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"

# make image stops here.
FROM base AS prebuilt
COPY bin/sidekick /usr/local/bin/sidekick

FROM golang:1.26-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG COMMIT=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" \
    -o /sidekick ./cmd/sidekick

FROM base
COPY --from=build /sidekick /usr/local/bin/sidekick
