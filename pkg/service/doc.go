// Package service is the vocabulary of Sidekick: what an [Instance] of a service is, how it is
// written into a registry and read back, how labels describe it, and what the whole cluster's
// services, the [Catalog], look like to a reader.
//
// It stands at both ends of the registry. Towards it flow instances, made from labels by
// [ParseLabels] and encoded by [Instance.Key] and [Instance.Encode]; from it flow keys and values,
// which a [Builder] decodes, validates and folds into immutable catalogs. Nothing here does I/O, and
// nothing is imported but the standard library.
//
// A reader trusts nothing that it finds in a registry: a key or value that breaks a rule of this
// package is left out of the catalog and reported as a [Rejection]; the others are served.
package service
