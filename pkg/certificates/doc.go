// Package certificates reads the directory of --certs: what HAProxy shows clients of HTTPS. A [Source]
// follows the directory and sends complete sets to where the text for HAProxy is made; [Read] is for
// commands that look once.
//
// Certificates lie there as NAME.pem (chain and key in one file), as NAME.crt with NAME.key, or in a
// directory NAME as fullchain.pem with privkey.pem, as certbot keeps them.
//
// [Own] and [Authorities] understand the two files that are about servers, which others read.
package certificates
