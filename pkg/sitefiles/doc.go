// Package sitefiles reads what an operator keeps in folders for all services of a host: users who may be
// let in (--set auth-dir), and pages for what HAProxy answers by itself (--set error-dir). A [Source]
// follows the folders and sends complete sets to where the text for HAProxy is made; [Read] is for
// commands that look once.
package sitefiles
