// Package declared turns what somebody wrote down into instances: of a database on another machine,
// of a process without a container. It stands where pkg/docker does for containers.
//
// A [Source] follows a directory of services files and sends complete sets; [Set] and
// [Host.Instance] serve a command that declares one instance. What can be said of an instance, and in
// which words, is the grammar of labels in pkg/service.
package declared
