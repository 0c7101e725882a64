// Package peer runs other VPNs in a lab's network, so that they can be measured
// beside Cuttle: the same namespaces, cables, server and load generator.
//
// A Peer starts its processes on a client and on hops and says how to load them;
// the lab ends them when it ends. The programs are those that `make peers` puts
// into a folder; the package downloads nothing and refuses to use a program from
// elsewhere. Addresses and keys are made for the lab and die with it.
// internal/lab/bench calls it. It keeps no state and so has no lock; all but the
// list needs Linux and root.
package peer
