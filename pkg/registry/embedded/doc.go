// Package embedded is the registry of a single host: an etcd server that the agent brings along, and what
// `sidekick etcd` offers for trials and tests.
//
// A [Server] runs inside the process. The agent has it in a process of its own, by a [Keeper]: at a full
// disk or a damaged file etcd ends its process in ways that nothing can hold up, and the agent has a proxy
// to serve. [Serve] is that process's side.
//
// A server listens on Unix sockets in the state directory, so that nothing of it can be reached from
// another host unless a TCP address is asked for. Its data stands beside the sockets and survives
// restarts. What flows in is a [Config]; what flows out is the endpoint for the package etcd, which
// speaks to this server as to any other.
package embedded
