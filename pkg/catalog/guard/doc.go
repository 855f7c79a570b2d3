// Package guard decides what to make of instances that a registry has lost without anybody having taken
// them away. It sits between a Watcher and the rest of a View: catalogs of the registry and outcomes of
// probes flow in, catalogs with suspects flow out. It does no I/O and asks no clock.
//
// What was taken away one by one is always believed. What went along with its node's key, as when a lease
// ends, is held for a moment: if more nodes go like that, the registry is doubted and not the nodes, and
// their instances stay as suspects. A registry that was replaced is doubted as a whole, each node's part
// until the node has written it anew.
//
// A suspect gets requests while its address answers, and none once it does not. Every doubt ends: by what
// its node writes, by somebody else's claim to the address, or by time.
package guard
