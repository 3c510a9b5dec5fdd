# One or more launchers in pods of their own, as virt-controller renders them and virt-handler provides for them. Sourced by
# the demos, which set: here, image, guest_image, launcher, namespace, name, uid, grace, root (yes or no), hypervisor.
# shellcheck shell=bash disable=SC2154

podman=$here/../podman.sh

# Generous for emulation on a busy machine; each wait ends as soon as its condition holds.
ready_limit=60
boot_limit=120
state_limit=20
stop_limit=$((grace + 30))

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# The same in the background: the process itself, so that $! is what can be ended.
become_root() { if [ "$(id -u)" = 0 ]; then exec "$@"; else exec sudo "$@"; fi; }

now_ms() { local t=$EPOCHREALTIME; echo $((${t/[.,]/} / 1000)); }
began=$(now_ms)
say() {
    local ms=$(($(now_ms) - began))
    printf 'demo %3d.%03d s  %s\n' $((ms / 1000)) $((ms % 1000)) "$*"
}
fail() {
    local pod
    say "FAILED: $*"
    for pod in "${pods[@]}"; do
        echo "--- last lines of the log of $pod"
        "$podman" logs --tail 40 "$(container_of "$pod")" 2>&1 || true
        echo "--- last lines of the guest's console in $pod"
        as_root tail -n 20 "$work/$pod/private/$uid/virt-serial0-log" 2>/dev/null || true
    done
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds. Gives up at once if a pod has ended that may not.
wait_for() {
    local limit=$(($1 * 1000)) what=$2 start pod
    start=$(now_ms)
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$(now_ms)" -gt $((start + limit)) ]; then fail "$what: not within $((limit / 1000)) s"; fi
        for pod in "${pods[@]}"; do
            [ "${may_end:-}" = "$pod" ] || running "$pod" || fail "$what: the container of $pod has ended"
        done
        sleep 0.05
    done
}

pods=()
container_of() { echo "virt-launcher-$1-$$"; }
running() { [ "$("$podman" container inspect -f '{{.State.Running}}' "$(container_of "$1")" 2>/dev/null)" = true ]; }
ended() { ! running "$1"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vl-demo.XXXXXX")
helpers=()
cleanup() {
    local status=$? pid pod
    trap - EXIT INT TERM
    if [ "${KEEP:-0}" = 1 ]; then
        say "kept: containers $(for pod in "${pods[@]}"; do container_of "$pod"; done | xargs), folders $work"
        exit "$status"
    fi
    for pid in "${helpers[@]}"; do as_root kill "$pid" 2>/dev/null || true; done
    for pod in "${pods[@]}"; do
        "$podman" rm -f -t 0 "$(container_of "$pod")" >/dev/null 2>&1 || true
        as_root umount -R "$work/$pod/container-disks" 2>/dev/null || true
    done
    [ -z "${guest_root:-}" ] || "$podman" image unmount "$guest_image" >/dev/null 2>&1 || true
    as_root rm -rf --one-file-system "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

need_images() {
    local wanted
    for wanted in "$image" "$guest_image"; do
        "$podman" image exists "$wanted" || { echo "demo: image $wanted is missing; make images builds it" >&2; exit 1; }
    done
    [ -x "$launcher" ] || { echo "demo: $launcher is missing; make static builds it" >&2; exit 1; }
}

# Whether there is hardware virtualisation: sets acceleration, works (yes or no) and reason.
find_acceleration() {
    acceleration=()
    if reason=$("$here/../kvm-works.sh"); then
        works=yes
        acceleration=(--device /dev/kvm)
    else
        works=no
    fi
}

# start_pod POD [PODMAN OPTION...] -- [LAUNCHER FLAG...]: a container that is ready.
start_pod() {
    local pod=$1 folder=$work/$1 volume security options=() flags
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    flags=("$@")
    mkdir "$folder"
    # emptyDirs as the kubelet makes them for fsGroup 107.
    for volume in private public sockets ephemeral-disks libvirt-runtime hotplug-disks container-disks; do
        mkdir "$folder/$volume"
        as_root chown 0:107 "$folder/$volume"
        as_root chmod 2777 "$folder/$volume"
    done
    # Mounts that virt-handler makes later must reach the running container.
    as_root mount --bind "$folder/container-disks" "$folder/container-disks"
    as_root mount --make-shared "$folder/container-disks"
    if [ "$root" = yes ]; then
        owner=0:0
        security=(--user 0:0 --cap-add=NET_BIND_SERVICE --cap-add=SYS_NICE)
    else
        owner=107:107
        security=(--user 107:107 --cap-drop=ALL --cap-add=NET_BIND_SERVICE --security-opt=no-new-privileges
            -e XDG_CACHE_HOME=/var/run/kubevirt-private -e XDG_CONFIG_HOME=/var/run/kubevirt-private -e XDG_RUNTIME_DIR=/var/run)
        flags+=(--run-as-nonroot)
    fi
    pods+=("$pod")
    "$podman" run -d --name "$(container_of "$pod")" --network=none --hostname "virt-launcher-$pod" \
        "${security[@]}" "${acceleration[@]}" "${options[@]}" \
        -e POD_NAME="virt-launcher-$pod" -e VIRT_LAUNCHER_LOG_VERBOSITY="${VIRT_LAUNCHER_LOG_VERBOSITY:-2}" \
        -v "$folder/private:/var/run/kubevirt-private" \
        -v "$folder/public:/var/run/kubevirt" \
        -v "$folder/sockets:/var/run/kubevirt/sockets" \
        -v "$folder/ephemeral-disks:/var/run/kubevirt-ephemeral-disks" \
        -v "$folder/libvirt-runtime:/var/run/libvirt" \
        -v "$folder/hotplug-disks:/var/run/kubevirt/hotplug-disks" \
        -v "$folder/container-disks:/var/run/kubevirt/container-disks:rslave" \
        --entrypoint '["/usr/bin/virt-launcher-monitor"]' "$image" \
        --qemu-timeout 263s --name "$name" --uid "$uid" --namespace "$namespace" \
        --kubevirt-share-dir /var/run/kubevirt --ephemeral-disk-dir /var/run/kubevirt-ephemeral-disks \
        --container-disk-dir /var/run/kubevirt/container-disks --grace-period-seconds $((grace + 15)) --hook-sidecars 0 \
        --ovmf-path /usr/share/OVMF --disk-memory-limit 2097152000 --hypervisor "$hypervisor" \
        "${flags[@]}" >/dev/null
    if [ ${#acceleration[@]} -gt 0 ]; then
        # virt-handler gives the device to the VM's user.
        "$podman" exec --user 0 --privileged "$(container_of "$pod")" chown "$owner" /dev/kvm
    fi
    wait_for "$ready_limit" "the launcher's socket in $pod" test -S "$(socket_of "$pod")"
}

socket_of() { echo "$work/$1/sockets/launcher-sock"; }

# ctl POD COMMAND...
ctl() {
    local pod=$1
    shift
    as_root "$launcher" ctl --socket "$(socket_of "$pod")" "$@"
}

# virt-handler's notify server, which it gives to the VM's user; the events are in $work/POD/events.
serve_events() {
    local notify=$work/$1/public/domain-notify-pipe.sock
    become_root "$launcher" ctl -o json events --listen "$notify" >"$work/$1/events" 2>&1 &
    helpers+=($!)
    wait_for 5 "the notify server" test -S "$notify"
    as_root chown "$owner" "$notify"
}

# Container disk and kernel: bind mounts from the image's own root file system.
mount_disks() {
    local disks=$work/$1/container-disks
    [ -n "${guest_root:-}" ] || guest_root=$("$podman" image mount "$guest_image")
    bind() {
        as_root touch "$2"
        as_root mount --bind -o ro "$1" "$2"
    }
    as_root mkdir "$disks/kernel-boot"
    bind "$guest_root/disk/disk.img" "$disks/disk_0.img"
    bind "$guest_root/boot/vmlinuz" "$disks/kernel-boot/vmlinuz"
    bind "$guest_root/boot/initrd" "$disks/kernel-boot/initrd"
}

# status_is POD STATUS
status_is() { [ "$(ctl "$1" -o json get-domain 2>/dev/null | jq -r '.Status.Status // empty')" = "$2" ]; }
# saw POD CONDITION: whether an event has come for which jq's condition holds.
saw() { jq -e --slurp "any(.[]; $2)" "$work/$1/events"; }
