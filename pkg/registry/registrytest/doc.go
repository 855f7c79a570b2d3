// Package registrytest holds what every registry must do, as tests that a registry's own tests run:
// [Run] with a [Store] that wraps a real one. What a registry needs to be tested with beyond its two
// interfaces, such as a restart or the loss of a lease, are fields of the Store.
package registrytest
