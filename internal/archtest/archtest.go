// Package archtest holds the house rules as tests: which package may import
// which (the table in arch_test.go), that every package says what it is for,
// and the list of everything linked into the user commands. It also keeps the
// scripts that `make check` runs. It contains no code of the product; nothing
// imports it.
package archtest
