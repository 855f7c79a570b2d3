// Package embedded runs an etcd server inside the process: the registry of a single host, and what
// `sidekick etcd` offers for trials and tests.
//
// It listens on Unix sockets in the state directory, so that nothing of it can be reached from
// another host unless a TCP address is asked for. Its data stands beside the sockets and survives
// restarts. What flows in is a [Config]; what flows out is the endpoint for the package etcd, which
// speaks to this server as to any other.
package embedded
