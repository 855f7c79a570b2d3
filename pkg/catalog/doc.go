// Package catalog turns a watched registry into what the rest of the agent works from: immutable
// snapshots of the whole cluster's services, one after each change or burst of changes.
//
// A [Watcher] sends complete catalogs in; a [View] sends [Snapshot] values out. In between, what the
// registry lost although nobody took it away is kept as suspect (package guard), bursts become one,
// services that lost their last instance stay for a while without any, and the last good catalog is
// kept on disk, from which an agent serves that starts while the registry is away.
package catalog
