// Package admin answers what people and monitors ask an agent: is it alive, is it ready, what
// does it know, what did it do, and why is something not routed.
//
// The stages of the agent report into a [State]; a [Server] shows it over HTTP as health, metrics
// and JSON. Reading only: nothing in here changes what the agent does. The formats are written
// down in docs/formats.md.
package admin
