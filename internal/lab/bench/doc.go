// Package bench measures a whole network on this machine and prints tables in
// Markdown: throughput, CPU time per gigabyte, time to the first byte, memory.
//
// It says what it saw and judges nothing. All processes share the machine, so
// gigabits per second are those of the whole chain on its cores; CPU seconds per
// gigabyte and the ratio to plain kernel routing in the same run carry over best
// to other machines. cmd/cuttle-lab calls it; nothing in it runs at the same
// time as anything else, except a download under which latency is measured.
package bench
