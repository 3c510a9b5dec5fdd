#!/usr/bin/env bash
# The whole story on one machine, without Kubernetes: starts the container as virt-controller's pod would, does from the
# outside what virt-handler does, and drives one real Linux guest from first boot to graceful shutdown.
#
#   run.sh [--root] [VMI-FILE]
#
#   --root      the pod of a cluster that runs VMs as root (default: as uid 107, without capabilities)
#   VMI-FILE    default: vmi.yaml beside this script; its name, uid and volumes are those the script sets up
#
# HYPERVISOR=cloud-hypervisor shows the same under virtchd: with the VMM that CLOUD_HYPERVISOR names where KVM works, else
# with a double of the VMM, which says what a guest would but runs none.
#
# Exit code 0 only if every step showed what it should. Needs: make images, root or sudo.
# KEEP=1 leaves the container and its folders behind for a look.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=no
if [ "${1:-}" = --root ]; then
    root=yes
    shift
fi
vmi=${1:-$here/vmi.yaml}
hypervisor=${HYPERVISOR:-kvm}
case $hypervisor in
kvm | qemu-kvm)
    image=${VIRT_LAUNCHER_IMAGE:-localhost/virt-launcher-qemu}
    process=qemu-system daemon='(libvirtd|virtqemud)'
    ;;
ch | cloud-hypervisor)
    image=${VIRT_LAUNCHER_CH_IMAGE:-localhost/virt-launcher-ch}
    process=cloud-hyperviso daemon=virtchd
    ;;
*)
    echo "demo: HYPERVISOR=$hypervisor: it must be kvm or cloud-hypervisor" >&2
    exit 2
    ;;
esac
double=$here/../../target/debug/examples/fake-cloud-hypervisor
guest_image=${VIRT_LAUNCHER_GUEST_IMAGE:-localhost/virt-launcher-guest}
launcher=${VIRT_LAUNCHER:-$here/../../target/dist/virt-launcher}

name=demo
namespace=default
uid=5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11
# What the guest's user-data prints; its shell fills in the host name that it took from the meta-data.
marker='demo: user-data of demo ran on Linux [0-9]'
grace=30
pod=demo
# shellcheck source=images/demo/pod.sh
. "$here/pod.sh"
need_images

# --- the pod ---------------------------------------------------------------------------------------------------------

launcher_flags=()
find_acceleration
if [ "$works" = yes ]; then
    say "/dev/kvm works here: hardware virtualisation"
elif [ "$process" = cloud-hyperviso ]; then
    say "no hardware virtualisation: ${reason#emulation: }"
    # The launcher and virtchd want to see the device; the double does not use it.
    acceleration=(--device "$([ -e /dev/kvm ] && echo /dev/kvm || echo /dev/null):/dev/kvm")
else
    say "software ${reason}"
    launcher_flags+=(--allow-emulation)
fi

vmm=()
if [ "$process" = cloud-hyperviso ]; then
    if [ "$works" = yes ] && [ -n "${CLOUD_HYPERVISOR:-}" ]; then
        say "the VMM is the real one: $("$podman" run --rm --entrypoint cloud-hypervisor "$image" --version | head -n 1)"
    else
        [ -x "$double" ] || fail "$double is missing; cargo build --example fake-cloud-hypervisor builds it"
        say "the VMM is a double, $([ "$works" = yes ] && echo "CLOUD_HYPERVISOR names no real one" || echo "a real one needs KVM"); no guest runs"
        vmm=(-v "$double:/usr/bin/cloud-hypervisor:ro")
        marker='guest: boot'
    fi
fi

start_pod "$pod" "${vmm[@]}" -- "${launcher_flags[@]}"
container=$(container_of "$pod")
say "container started, as $([ "$root" = yes ] && echo root || echo "uid 107 without capabilities but NET_BIND_SERVICE")"
say "ready: the command socket is there"

# --- what virt-handler does ------------------------------------------------------------------------------------------

# The VMI as the API server would hand it out for this kind of pod.
sed "s/runtimeUser: 107/runtimeUser: ${owner%:*}/" "$vmi" >"$work/vmi.yaml"
if ! refused=$("$launcher" check "$work/vmi.yaml" --hypervisor "$hypervisor" 2>&1); then
    sed 's/^/  | /' <<<"$refused"
    sed -i '/serial: scratch1/d' "$work/vmi.yaml"
    "$launcher" check "$work/vmi.yaml" --hypervisor "$hypervisor" >/dev/null || fail "$hypervisor cannot do this VMI"
    say "$hypervisor cannot do that; the VMI goes without"
fi

serve_events "$pod"
mount_disks "$pod"
say "container disk and kernel mounted into the running container"

ctl "$pod" sync "$work/vmi.yaml" || fail "sync of $vmi"
say "VMI synchronised"
wait_for "$state_limit" "domain Running" status_is "$pod" Running
say "Running"

become_root "$launcher" ctl console --path "$work/$pod/private/$uid/virt-serial0" </dev/null >"$work/console" 2>&1 &
helpers+=($!)
user_data_ran() { grep -aqE "$marker" "$work/console"; }
wait_for "$boot_limit" "the line from the guest" user_data_ran
say "guest: $(grep -aoE "$marker.*" "$work/console" | head -n 1 | tr -d '\r')"
echo "--- console"
tr -d '\r' <"$work/console" | grep -av heartbeat | sed 's/^/  | /' | head -n 30

echo "--- processes of the container"
"$podman" exec "$container" ps -e -o pid,ppid,rss,comm | grep -vE ' (ps|true)$' | sed 's/^/  | /'
tree=$("$podman" exec "$container" ps -e -o pid=,ppid=,comm=)
parent_of() { awk -v want="$1" '$3 ~ "^" want { print $2; exit }' <<<"$tree"; }
child=$(awk '$2 == 1 && $3 == "virt-launcher" { print $1; exit }' <<<"$tree")
[ -n "$child" ] || fail "virt-launcher is not a child of PID 1"
[ "$(parent_of "$process")" = 1 ] || fail "the hypervisor is not a child of PID 1 but of $(parent_of "$process")"
[ "$(parent_of "$daemon")" = "$child" ] || fail "the libvirt daemon is not a child of the launcher"
say "the hypervisor is PID 1's child, the libvirt daemon the launcher's"

domain=${namespace}_$name
"$podman" exec "$container" sh -c 'for s in virtqemud libvirt virtchd; do
    [ $s = virtchd ] && uri=ch+unix:///session || uri=qemu+unix:///$0
    [ ! -S /run/libvirt/$s-sock ] || exec virsh -c "$uri?socket=/run/libvirt/$s-sock" list --all
done' "$([ "$root" = yes ] && echo system || echo session)" >"$work/virsh" 2>&1 || fail "virsh list: $(cat "$work/virsh")"
grep -q "$domain .*running" "$work/virsh" || fail "virsh list does not show $domain running: $(cat "$work/virsh")"
sed 's/^/  | /' "$work/virsh"
echo "--- get-domain"
ctl "$pod" get-domain | head -n 30 | sed 's/^/  | /'

beats() { grep -ac heartbeat "$work/console" || true; }
ctl "$pod" pause || fail "pause"
wait_for "$state_limit" "domain Paused" status_is "$pod" Paused
# What the guest wrote before the pause may still be on its way here.
sleep 0.5
before=$(beats)
sleep 2
[ "$(beats)" = "$before" ] || fail "the guest goes on writing while Paused"
say "Paused: the guest's heartbeat stands still"
ctl "$pod" unpause || fail "unpause"
wait_for "$state_limit" "domain Running after unpause" status_is "$pod" Running
beating() { [ "$(beats)" -gt "$before" ]; }
wait_for "$state_limit" "the guest's heartbeat after unpause" beating
say "Running: the heartbeat goes on"

# --- the end ---------------------------------------------------------------------------------------------------------

ctl "$pod" shutdown || fail "shutdown"
say "graceful shutdown asked for"
may_end=$pod
# Shutoff with the reason that says the guest went down by itself; a domain is Shutoff before its start, too.
wait_for "$stop_limit" "the event Shutoff with reason Shutdown" saw "$pod" '.domain.Status | .Status == "Shutoff" and .Reason == "Shutdown"'
say "Shutoff, by the guest's own shutdown; reported by event"
# virt-handler removes the domain once it has seen it shut off, and looks for the event that says so.
ctl "$pod" delete --vmi "$work/vmi.yaml" || fail "delete"
wait_for "$state_limit" "the event of the deletion" saw "$pod" '.domain.ObjectMeta.deletionTimestamp != null'
say "domain deleted, reported by event"
wait_for "$stop_limit" "the end of the container" ended "$pod"
code=$("$podman" container inspect -f '{{.State.ExitCode}}' "$container")
echo "--- events"
jq -r '"  | \(.call) \(.eventType // "") \(.domain.Status.Status // "") \(.domain.Status.Reason // "")"' "$work/$pod/events"
[ "$code" = 0 ] || fail "the container's exit code is $code, want 0"
say "container ended with exit code 0"
say "passed"
