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
podman=$here/../podman.sh
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
container=virt-launcher-demo-$$

# Generous for emulation on a busy machine; each wait ends as soon as its condition holds.
ready_limit=60
boot_limit=120
state_limit=20
stop_limit=$((grace + 30))

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

now_ms() { local t=$EPOCHREALTIME; echo $((${t/[.,]/} / 1000)); }
began=$(now_ms)
say() {
    local ms=$(($(now_ms) - began))
    printf 'demo %3d.%03d s  %s\n' $((ms / 1000)) $((ms % 1000)) "$*"
}
fail() {
    say "FAILED: $*"
    echo "--- last lines of the container's log"
    "$podman" logs --tail 40 "$container" 2>&1 || true
    echo "--- last lines of the guest's console"
    tail -n 20 "$work/console" 2>/dev/null || true
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds. Gives up at once if the container has ended.
wait_for() {
    local limit=$(($1 * 1000)) what=$2 start
    start=$(now_ms)
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$(now_ms)" -gt $((start + limit)) ]; then fail "$what: not within $((limit / 1000)) s"; fi
        if [ "${may_end:-no}" = no ] && ! running; then fail "$what: the container has ended"; fi
        sleep 0.05
    done
}
running() { [ "$("$podman" container inspect -f '{{.State.Running}}' "$container" 2>/dev/null)" = true ]; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vl-demo.XXXXXX")
helpers=()
cleanup() {
    local status=$? pid
    trap - EXIT INT TERM
    if [ "${KEEP:-0}" = 1 ]; then
        say "kept: container $container, folders $work"
        exit "$status"
    fi
    for pid in "${helpers[@]}"; do as_root kill "$pid" 2>/dev/null || true; done
    "$podman" rm -f -t 0 "$container" >/dev/null 2>&1 || true
    as_root umount -R "$work/container-disks" 2>/dev/null || true
    [ -z "${mounted:-}" ] || "$podman" image unmount "$guest_image" >/dev/null 2>&1 || true
    as_root rm -rf --one-file-system "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

for wanted in "$image" "$guest_image"; do
    "$podman" image exists "$wanted" || { echo "demo: image $wanted is missing; make images builds it" >&2; exit 1; }
done
[ -x "$launcher" ] || { echo "demo: $launcher is missing; make static builds it" >&2; exit 1; }

# --- the pod ---------------------------------------------------------------------------------------------------------

# emptyDirs as the kubelet makes them for fsGroup 107.
volumes=(private public sockets ephemeral-disks libvirt-runtime hotplug-disks container-disks)
for volume in "${volumes[@]}"; do
    mkdir "$work/$volume"
    as_root chown 0:107 "$work/$volume"
    as_root chmod 2777 "$work/$volume"
done
# Mounts that virt-handler makes later must reach the running container.
as_root mount --bind "$work/container-disks" "$work/container-disks"
as_root mount --make-shared "$work/container-disks"

acceleration=()
launcher_flags=()
if [ "$root" = yes ]; then
    who="root"
    owner=0:0
    pod=(--user 0:0 --cap-add=NET_BIND_SERVICE --cap-add=SYS_NICE)
else
    who="uid 107 without capabilities but NET_BIND_SERVICE"
    owner=107:107
    pod=(--user 107:107 --cap-drop=ALL --cap-add=NET_BIND_SERVICE --security-opt=no-new-privileges
        -e XDG_CACHE_HOME=/var/run/kubevirt-private -e XDG_CONFIG_HOME=/var/run/kubevirt-private -e XDG_RUNTIME_DIR=/var/run)
    launcher_flags=(--run-as-nonroot)
fi
if reason=$("$here/../kvm-works.sh"); then
    say "/dev/kvm works here: hardware virtualisation"
    acceleration=(--device /dev/kvm)
    works=yes
elif [ "$process" = cloud-hyperviso ]; then
    say "no hardware virtualisation: ${reason#emulation: }"
    # The launcher and virtchd want to see the device; the double does not use it.
    acceleration=(--device "$([ -e /dev/kvm ] && echo /dev/kvm || echo /dev/null):/dev/kvm")
    works=no
else
    works=no
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

"$podman" run -d --name "$container" --network=none --hostname virt-launcher-demo \
    "${pod[@]}" "${acceleration[@]}" "${vmm[@]}" \
    -e POD_NAME="virt-launcher-$name" -e VIRT_LAUNCHER_LOG_VERBOSITY="${VIRT_LAUNCHER_LOG_VERBOSITY:-2}" \
    -v "$work/private:/var/run/kubevirt-private" \
    -v "$work/public:/var/run/kubevirt" \
    -v "$work/sockets:/var/run/kubevirt/sockets" \
    -v "$work/ephemeral-disks:/var/run/kubevirt-ephemeral-disks" \
    -v "$work/libvirt-runtime:/var/run/libvirt" \
    -v "$work/hotplug-disks:/var/run/kubevirt/hotplug-disks" \
    -v "$work/container-disks:/var/run/kubevirt/container-disks:rslave" \
    --entrypoint '["/usr/bin/virt-launcher-monitor"]' "$image" \
    --qemu-timeout 263s --name "$name" --uid "$uid" --namespace "$namespace" \
    --kubevirt-share-dir /var/run/kubevirt --ephemeral-disk-dir /var/run/kubevirt-ephemeral-disks \
    --container-disk-dir /var/run/kubevirt/container-disks --grace-period-seconds $((grace + 15)) --hook-sidecars 0 \
    --ovmf-path /usr/share/OVMF --disk-memory-limit 2097152000 --hypervisor "$hypervisor" \
    "${launcher_flags[@]}" >/dev/null
say "container started, as $who"
if [ ${#acceleration[@]} -gt 0 ]; then
    # virt-handler gives the device to the VM's user.
    "$podman" exec --user 0 --privileged "$container" chown "$owner" /dev/kvm
fi

socket=$work/sockets/launcher-sock
wait_for "$ready_limit" "the launcher's socket" test -S "$socket"
say "ready: the command socket is there"

# --- what virt-handler does ------------------------------------------------------------------------------------------

ctl() { as_root "$launcher" ctl --socket "$socket" "$@"; }

# The VMI as the API server would hand it out for this kind of pod.
sed "s/runtimeUser: 107/runtimeUser: ${owner%:*}/" "$vmi" >"$work/vmi.yaml"
if ! refused=$("$launcher" check "$work/vmi.yaml" --hypervisor "$hypervisor" 2>&1); then
    sed 's/^/  | /' <<<"$refused"
    sed -i '/serial: scratch1/d' "$work/vmi.yaml"
    "$launcher" check "$work/vmi.yaml" --hypervisor "$hypervisor" >/dev/null || fail "$hypervisor cannot do this VMI"
    say "$hypervisor cannot do that; the VMI goes without"
fi

# Its notify server, which it gives to the VM's user.
notify=$work/public/domain-notify-pipe.sock
as_root "$launcher" ctl -o json events --listen "$notify" >"$work/events" 2>&1 &
helpers+=($!)
wait_for 5 "the notify server" test -S "$notify"
as_root chown "$owner" "$notify"

# Container disk and kernel: bind mounts from the image's own root file system.
guest_root=$("$podman" image mount "$guest_image")
mounted=yes
bind() {
    as_root touch "$2"
    as_root mount --bind -o ro "$1" "$2"
}
as_root mkdir "$work/container-disks/kernel-boot"
bind "$guest_root/disk/disk.img" "$work/container-disks/disk_0.img"
bind "$guest_root/boot/vmlinuz" "$work/container-disks/kernel-boot/vmlinuz"
bind "$guest_root/boot/initrd" "$work/container-disks/kernel-boot/initrd"
say "container disk and kernel mounted into the running container"

status_is() { [ "$(ctl -o json get-domain 2>/dev/null | jq -r '.Status.Status // empty')" = "$1" ]; }

ctl sync "$work/vmi.yaml" || fail "sync of $vmi"
say "VMI synchronised"
wait_for "$state_limit" "domain Running" status_is Running
say "Running"

as_root "$launcher" ctl console --path "$work/private/$uid/virt-serial0" </dev/null >"$work/console" 2>&1 &
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
ctl get-domain | head -n 30 | sed 's/^/  | /'

beats() { grep -ac heartbeat "$work/console" || true; }
ctl pause || fail "pause"
wait_for "$state_limit" "domain Paused" status_is Paused
# What the guest wrote before the pause may still be on its way here.
sleep 0.5
before=$(beats)
sleep 2
[ "$(beats)" = "$before" ] || fail "the guest goes on writing while Paused"
say "Paused: the guest's heartbeat stands still"
ctl unpause || fail "unpause"
wait_for "$state_limit" "domain Running after unpause" status_is Running
beating() { [ "$(beats)" -gt "$before" ]; }
wait_for "$state_limit" "the guest's heartbeat after unpause" beating
say "Running: the heartbeat goes on"

# --- the end ---------------------------------------------------------------------------------------------------------

ctl shutdown || fail "shutdown"
say "graceful shutdown asked for"
may_end=yes
saw() { jq -e --slurp "any(.[]; $1)" "$work/events"; }
# Shutoff with the reason that says the guest went down by itself; a domain is Shutoff before its start, too.
wait_for "$stop_limit" "the event Shutoff with reason Shutdown" saw '.domain.Status | .Status == "Shutoff" and .Reason == "Shutdown"'
say "Shutoff, by the guest's own shutdown; reported by event"
# virt-handler removes the domain once it has seen it shut off, and looks for the event that says so.
ctl delete --vmi "$work/vmi.yaml" || fail "delete"
wait_for "$state_limit" "the event of the deletion" saw '.domain.ObjectMeta.deletionTimestamp != null'
say "domain deleted, reported by event"
ended() { ! running; }
wait_for "$stop_limit" "the end of the container" ended
code=$("$podman" container inspect -f '{{.State.ExitCode}}' "$container")
echo "--- events"
jq -r '"  | \(.call) \(.eventType // "") \(.domain.Status.Status // "") \(.domain.Status.Reason // "")"' "$work/events"
[ "$code" = 0 ] || fail "the container's exit code is $code, want 0"
say "container ended with exit code 0"
say "passed"
