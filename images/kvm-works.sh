#!/usr/bin/env bash
# Says whether /dev/kvm runs guests at a useful speed: exit code 0 and "kvm" on stdout, else 1 and "emulation: REASON".
#
# A device that opens proves nothing: nested virtualisation can be so slow that no guest gets anywhere. So the test guest
# is booted with it, once per boot of the machine; the verdict is kept in the cache folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
podman=$here/podman.sh
image=localhost/virt-launcher-qemu
guest=localhost/virt-launcher-guest
# The guest's user space is up within 2 s where KVM works, and within 6 s even in emulation.
limit=15

cache=${VIRT_LAUNCHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/virt-launcher}
verdict=$cache/kvm-$(tr -d - </proc/sys/kernel/random/boot_id)

answer() {
    echo "$1"
    [ "$1" = kvm ] && exit 0
    exit 1
}

[ -e /dev/kvm ] || answer "emulation: there is no /dev/kvm"
[ -f "$verdict" ] && answer "$(cat "$verdict")"

mkdir -p "$cache"
rm -f "$cache"/kvm-*
name=virt-launcher-kvm-check-$$
out=$(mktemp)
trap '"$podman" rm -f "$name" >/dev/null 2>&1 || true; rm -f "$out"' EXIT
"$podman" run --rm --name "$name" --network=none --user 0:0 --device /dev/kvm --mount "type=image,source=$guest,destination=/guest" \
    --entrypoint timeout "$image" --signal KILL "$limit" qemu-system-x86_64 -machine q35,accel=kvm -cpu host -m 256 -display none \
    -no-reboot -nodefaults -serial stdio -kernel /guest/boot/vmlinuz -initrd /guest/boot/initrd \
    -append "console=ttyS0 quiet panic=-1" </dev/null >"$out" 2>&1 &
result="emulation: a guest with /dev/kvm did not come up within $limit s"
while kill -0 $! 2>/dev/null; do
    if grep -q "guest: up" "$out"; then
        result=kvm
        break
    fi
    sleep 0.2
done
grep -q "guest: up" "$out" && result=kvm
echo "$result" >"$verdict"
answer "$result"
