// Package sitefiles reads what an operator keeps in files for all services of a host: users who may be let
// in (--set auth-dir), pages for what HAProxy answers by itself (--set error-dir), and by what servers are
// told from others and are shown who asks (--set server-ca, server-cert). A [Source] follows the files and
// sends complete sets to where the text for HAProxy is made; [Read] is for commands that look once.
package sitefiles
