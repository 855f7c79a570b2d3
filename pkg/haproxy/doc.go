// Package haproxy makes a running HAProxy behave as the rendered files say.
//
// [render.Files] flow in; runtime commands, or a checked and confirmed reload, flow out. The text is
// the single source of truth: the [Driver], the one writer, compares the text in force with the
// wanted text. [Plan] says whether runtime commands can turn one into the other or why only a reload
// will do. After runtime commands the file on disk follows in the background, so that any restart of
// HAProxy finds what runs. A text that needs a reload is checked by HAProxy itself in a directory
// of its own, its new addresses are probed, and only then it is swapped in together with all files that
// it names, reloaded through the master's socket and confirmed by asking the worker that answers. On
// failure the old files and the old worker stay, with HAProxy's own words as the reason.
//
// HAProxy is a child of this process (managed mode, see [Supervisor]) or a process of its own that is
// reached through its sockets (external mode, see [Prepare] and [ExecArgs]).
package haproxy
