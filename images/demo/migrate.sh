#!/usr/bin/env bash
# A live migration on one machine, without Kubernetes: a guest that counts moves from one launcher's container to another's,
# with its memory and its disks, and goes on counting there. `virt-launcher ctl migrate` does what two virt-handlers do.
#
#   migrate.sh [--root]
#
#   --root      pods of a cluster that runs VMs as root (default: as uid 107, without capabilities)
#
# Exit code 0 only if every step showed what it should. Needs: make images, root or sudo.
# KEEP=1 leaves the containers and their folders behind for a look.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=no
[ "${1:-}" != --root ] || root=yes
hypervisor=kvm
image=${VIRT_LAUNCHER_IMAGE:-localhost/virt-launcher-qemu}
guest_image=${VIRT_LAUNCHER_GUEST_IMAGE:-localhost/virt-launcher-guest}
launcher=${VIRT_LAUNCHER:-$here/../../target/dist/virt-launcher}
name=demo
namespace=default
uid=5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11
grace=30
# shellcheck source=images/demo/pod.sh
. "$here/pod.sh"
need_images

flags=()
find_acceleration
if [ "$works" = yes ]; then
    say "/dev/kvm works here: hardware virtualisation"
else
    say "software ${reason}"
    flags+=(--allow-emulation)
fi
for pod in source target; do
    start_pod "$pod" -- "${flags[@]}"
    serve_events "$pod"
    mount_disks "$pod"
    say "$pod: its launcher is ready"
done

# The guest counts as fast as its shell can, about every 20 ms.
sed -e "s/runtimeUser: 107/runtimeUser: ${owner%:*}/" -e 's/ heartbeat$//' \
    -e 's|^\( *\)#!/bin/sh|&\n\1(i=0; while :; do echo "count $i"; i=$((i+1)); sleep 0.02; done) \&|' "$here/vmi.yaml" >"$work/vmi.yaml"
"$launcher" check "$work/vmi.yaml" 2>/dev/null | tail -n 1

# Each count with the second at which this machine saw it: a guest does not feel how long it stands still.
watch_counts() {
    local lines=$work/$1/lines
    mkfifo "$lines"
    become_root "$launcher" virt-tail --logfile "$work/$1/private/$uid/virt-serial0-log" >"$lines" &
    helpers+=($!)
    while IFS= read -r line; do
        case $line in "count "*) echo "$EPOCHREALTIME ${line//[!0-9]/}" ;; esac
    done <"$lines" >"$work/$1/counts" &
}
watch_counts source
watch_counts target

ctl source sync "$work/vmi.yaml" || fail "sync"
wait_for "$state_limit" "domain Running" status_is source Running
counts() { wc -l <"$work/$1/counts"; }
has_counted() { [ "$(counts "$1")" -ge 50 ]; }
wait_for "$boot_limit" "the guest's first counts" has_counted source
say "source: the guest counts, it is at $(tail -n 1 "$work/source/counts" | cut -d' ' -f2)"

say "ctl migrate: from the source's launcher to the target's"
may_end=source
ctl source migrate "$work/vmi.yaml" --to "$(socket_of target)" --follow --bandwidth 64Mi 2>&1 | sed 's/^/  | /' ||
    fail "the migration"

wait_for "$state_limit" "the guest's counts at the target" has_counted target
status_is target Running || fail "the target's domain is not Running"
read -r left at_source < <(tail -n 1 "$work/source/counts" | tr . ' ' | awk '{ print $1 substr($2, 1, 3), $3 }')
read -r arrived at_target < <(head -n 1 "$work/target/counts" | tr . ' ' | awk '{ print $1 substr($2, 1, 3), $3 }')
# The guest may have been stopped in the middle of a line.
[ "$at_target" -gt "$at_source" ] && [ "$at_target" -le $((at_source + 2)) ] ||
    fail "the guest counted to $at_source at the source and goes on with $at_target at the target"
say "the guest counted to $at_source at the source and goes on with $at_target at the target, $((arrived - left)) ms later"

wait_for "$stop_limit" "the end of the source's container" ended source
code=$("$podman" container inspect -f '{{.State.ExitCode}}' "$(container_of source)")
[ "$code" = 0 ] || fail "the source's exit code is $code, want 0"
saw source '.domain.Status | .Status == "Shutoff" and .Reason == "Migrated"' >/dev/null || fail "no event Shutoff (Migrated)"
say "source: Shutoff (Migrated) reported, container ended with exit code 0"

may_end=target
pods=(target)
ctl target shutdown || fail "shutdown"
wait_for "$stop_limit" "the event Shutoff with reason Shutdown" saw target '.domain.Status | .Status == "Shutoff" and .Reason == "Shutdown"'
ctl target delete --vmi "$work/vmi.yaml" >/dev/null || fail "delete"
wait_for "$stop_limit" "the end of the target's container" ended target
say "target: the guest shut down by itself, container ended with exit code $("$podman" container inspect -f '{{.State.ExitCode}}' "$(container_of target)")"
pods=(source target)
say "passed"
