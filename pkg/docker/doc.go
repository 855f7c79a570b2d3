// Package docker turns the running containers of one Docker engine into complete sets of service
// instances: the head of the pipe that ends in the registry.
//
// In flow the engine's list, inspections and events; out flow sets that hold every instance which
// this host should register, each time something about them has changed, and the list of what the
// containers ask for but cannot get. Whether an instance answers is not decided here: each carries
// the [service.Check] by which the gate of package register finds out.
//
// An event never carries facts, it only says which container to inspect again. There are two
// exceptions, because they are early and certain: a kill with the container's stop signal makes its
// instances drain before anything is asked, and its end removes them. What an event told and the
// agent missed is repaired by listing again: at each reconnect, and slowly all the time. A stream that
// does not tell what a list shows is given up for a new one.
package docker
