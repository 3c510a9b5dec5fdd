#!/usr/bin/env bash
# Every test for which this machine has what it needs; says at the end which ones were not run, and why.
#
#   all.sh [words for cargo test]...
#
# Tests that need an image, a tool or data are ignored by a plain `cargo test`, each with its reason. This asks for all of
# them, but for those that are left out here by a part of their name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip=(--skip helper_process)
not_run=()

leave_out() { # a part of the tests' names, and why
    skip+=(--skip "$1")
    not_run+=("$1" "$2")
}

at_least() { # a version of Linux
    [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -1)" = "$1" ]
}

[ -d ../shared/conformance ] || leave_out wide_suite "$(realpath -m ../shared/conformance) does not exist"
[ -n "${VIRT_LAUNCHER_CH_IMAGE:-}" ] || leave_out cloud_hypervisor::under_virtchd "make test-ch builds the image and runs them"
[ -n "${VIRT_LAUNCHER_LXC_IMAGE:-}" ] || leave_out lxc::its_daemon "make test-ch builds the image and runs it"
leave_out whole_table_of_victims "make faults GROUP=migration goes through it"
grep -qs '^0*1 ' /proc/net/if_inet6 || leave_out solicit_over_udp "there is no IPv6"
at_least 6.15 || leave_out crash_is_reported_while_the_daemon_does_not_answer "Linux $(uname -r) does not tell how another's child ended"

status=0
cargo test --locked --no-fail-fast "$@" -- --include-ignored "${skip[@]}" || status=$?

set -- "${not_run[@]}"
while [ $# -gt 0 ]; do
    count=$(cargo test --locked --quiet -- --list "$1" 2>/dev/null | grep -c ': test$' || true)
    echo "not run: $count of $1: $2"
    shift 2
done
exit "$status"
