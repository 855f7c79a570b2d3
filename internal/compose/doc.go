// Package compose reads of a compose file what decides how its containers are registered: labels,
// environment, ports, networks. In flows the text of one file, out flow its services, each with the
// faults that it has and with what of it is not read. It does not run anything, and what compose would
// refuse for other reasons it may let pass.
package compose
