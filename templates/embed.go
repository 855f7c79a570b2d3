// Package templates holds the built-in HAProxy template, to be used as it is or as the beginning of
// one's own. It flows into pkg/render, whose Model and functions it uses; nothing flows out.
package templates

import _ "embed"

// Name is how messages call the built-in template.
const Name = "built-in template"

// HAProxy is the text of haproxy.cfg.tmpl.
//
//go:embed haproxy.cfg.tmpl
var HAProxy string // embedding needs a variable
