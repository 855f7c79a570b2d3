// Package sidekick is the root of the module and holds no code: ARCHITECTURE.md shows what is where.
// Its test checks the rules that the tree as a whole keeps.
package sidekick
