#!/bin/sh
# Writes the shell completions: completions.sh CUTTLE FOLDER. The command knows
# its own; one without `completion` gets its verbs completed, as its help lists them.
set -eu
cuttle=$1 out=$2
mkdir -p "$out"
for shell in bash zsh fish; do
	if "$cuttle" completion "$shell" >"$out/$shell" 2>/dev/null && [ -s "$out/$shell" ]; then
		continue
	fi
	verbs=$("$cuttle" help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' | sort -u | tr '\n' ' ')
	[ -n "$verbs" ] || { echo "completions.sh: the help lists no verbs" >&2; exit 1; }
	case $shell in
	bash) printf 'complete -W "%s" cuttle\n' "$verbs" ;;
	zsh) printf '#compdef cuttle\n_arguments "1:command:(%s)"\n' "$verbs" ;;
	fish) printf 'complete -c cuttle -f -n __fish_use_subcommand -a "%s"\n' "$verbs" ;;
	esac >"$out/$shell"
done
