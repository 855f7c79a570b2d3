// Package confd serves a directory in confd's format: resource files in conf.d say which keys of the
// registry a template in templates is made of, which file that becomes, and which commands judge and
// announce it. An existing directory is taken as it is; docs/confd.md tells what differs.
//
//	conf.d, templates ─▶ look ─▶ definition ─┐
//	                                         ├▶ worker: render ─▶ check_cmd ─▶ dest ─▶ reload_cmd
//	registry ─▶ Source ─▶ hold-off ─▶ keys ──┘    (or environment, or files)
//
// A [Server] looks at the directory and gives each resource file a worker of its own, with a watch of its
// own: what is wrong with one is told under its name and tried again, and holds up no other. [Server.Once]
// does all of it once, or shows what it would do. [ParseLine] reads confd's own command line.
//
// What a template gives depends on its keys alone, but for the functions that ask this host
// ([Server.Environ], time, files, DNS).
package confd
