// Package boot tests Cuttle as it is installed: a Debian tree with a real systemd
// as its first process (systemd-nspawn), the package that `make package` builds,
// and a router that captures everything on the wire from before the machine is
// switched on until after it is off. It holds tests only (build tag systemd;
// `make test-systemd`) and needs root, systemd-container and the tree that
// tree.sh makes.
package boot
