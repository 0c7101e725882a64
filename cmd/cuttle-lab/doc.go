// Command cuttle-lab builds a whole network of real daemons on one machine, in
// network namespaces, and measures and shows it. It only parses flags and
// prints; internal/lab and its packages do the work. People and scripts start
// it, as root on Linux; `cuttle-lab help` lists the verbs.
package main
