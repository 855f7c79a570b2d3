// Command sidekick is the agent that runs on every Docker host, and the tools around it.
//
// The package holds the commands, their settings, and the wiring of the two pipes of `sidekick
// run`: containers → register → registry, and registry → catalog → render → HAProxy. What happens
// inside a stage belongs to the stage's package.
package main
