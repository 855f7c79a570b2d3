// Package render turns a catalog into the files that HAProxy reads.
//
// A [service.Catalog] and the viewer's own facts become a model in which every decision is made
// (what is routed, why not, in which order); a text/template turns the model into [Files]. Nothing
// here does I/O or reads a clock: the same catalog gives the same text.
package render
