// Package etcd keeps registrations in an etcd cluster, and reads them back.
//
// Both ends of the pipes that meet in the registry are here. A [Registry] opens sessions: one
// lease per agent, under which a node's exact set of instances is written by guarded transactions.
// A [Watcher] turns the keys of all nodes into complete catalogs: it lists all pages at one
// revision, follows from the next, and lists again whenever it cannot be sure to have seen all. A
// [Board] holds people's overrides and what they ask of agents, [Lone] what a command registers, and
// [Keys] follows keys that are not ours.
//
// # Connection
//
// [Dial] gives the client that all of them share. It never waits for the cluster, leaves members that
// stand still or have no leader, reads its files again when they change, follows the records of a
// domain, and names the [Cause] of what goes wrong in a [Problem].
//
// # Ownership
//
// A session owns a node by having written the node's key last. The revision of that write guards
// every later write of the session, so that a session which another one has taken over cannot
// write, however late its request arrives. (The key's create revision would not do: it stays the
// same when a key is put over, and a take-over must not delete the key first, because deleting it
// would look like the end of the node.)
package etcd
