// Package quarantine keeps a service whose text HAProxy refuses from blocking all others.
//
// A refusal is about the whole configuration. An [Exam] finds out which services are to blame: it has
// HAProxy check texts without some of those that differ from what is in force, led by the lines that
// HAProxy names, else by halving. A service to blame is served by the labels that were accepted last, with
// its instances of now, if HAProxy takes that, and is left out if not. The [Ward] remembers who is held in
// which way; [render.Input] takes that, so it works with every template. Who is held is tried again when
// its labels change, and now and then, for the cause may lie outside: nothing of that goes near the HAProxy
// that runs.
package quarantine
