// Package leak is the suite that tries to get packets past a running cuttled:
// a machine, a hostile router that sees every frame on its wire, and probes for
// each way out that is known. Every probe must be seen on the wire when no VPN
// is up, or the suite fails: a probe that never leaks shows nothing.
//
// It holds tests only (tag netns, root). They run in network namespaces of their
// own, with the real daemon as client and as guard and exit; CUTTLE_BIN names
// its folder. They leave the host alone. Nobody imports the package.
package leak
