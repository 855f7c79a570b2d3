// Package register keeps a registry in step with what runs on this host: the middle of the pipe
// from containers to leased keys.
//
// Sources say what should be registered, in complete sets. The [Gate] holds back what does not
// answer yet and marks what has ceased to. The [Publisher] makes the registry hold exactly what is
// left, under one lease, and does so again whenever the registry or the lease was lost. Complete
// sets flow all the way; only a [Session] compares them with what is there.
package register
