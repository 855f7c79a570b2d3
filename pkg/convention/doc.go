// Package convention reads what containers ask for: by Sidekick's own labels, and by the marks that
// other programs taught people to put on them, so that existing stacks move without edits.
//
// In flows what an engine tells of a container: its labels, environment, ports, image. Out flow the
// definitions of the services that it asks for. A convention turns each of its marks into one of our
// labels, so that a foreign value passes the same grammar as an own one, own labels can override each
// field, and a fault is told under the name that the user wrote. What has no counterpart here is told
// as a note, and does not keep the service from being registered.
package convention
