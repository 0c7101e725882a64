// Package netns makes network namespaces, joins them by veth pairs and runs
// programs inside them, with nothing but the kernel: no ip, no mount, no shell.
//
// A namespace is named under /run/netns, where `ip netns` finds it too, and may
// have files of its own under /etc/netns/<name>/, which every program started
// inside sees in place of the file of the same name in /etc. The package
// refuses to touch the namespace its caller runs in: every change is made
// through a handle to a named one. internal/lab and tests call it.
//
// There is no shared state and so no lock; two callers must not make the same
// name at the same time. Everything but this comment needs Linux and root.
package netns
