#!/usr/bin/env bash
# podman as this machine can run it: where crun refuses the machine's cgroups, runc; limits never above what this shell
# may have itself; as root, since a pod's users and mounts are not to be had otherwise. Use it in place of `podman`;
# `images/podman.sh --print` shows what it adds.
set -euo pipefail

podman=(podman)
[ "$(id -u)" = 0 ] || podman=(sudo podman)

runtime=()
if command -v runc >/dev/null; then
    # crun works with pure cgroup v2 or pure v1, not with a v2 tree beside v1 controllers.
    if [[ -e /sys/fs/cgroup/unified || ! -e /sys/fs/cgroup/cgroup.controllers ]] || ! command -v crun >/dev/null; then
        runtime=(--runtime runc)
    fi
fi

cap() {
    local have
    have=$(ulimit -H "$1")
    if [[ $have == unlimited || $have -gt $2 ]]; then echo "$2"; else echo "$have"; fi
}
limits=()
case ${1:-} in
run | create | build) limits=(--ulimit "nofile=$(cap -n 20000):$(cap -n 20000)" --ulimit "nproc=$(cap -u 4096):$(cap -u 4096)") ;;
--print)
    echo "${podman[*]} ${runtime[*]}"
    exit 0
    ;;
esac

command=$1
shift
exec "${podman[@]}" "${runtime[@]}" "$command" "${limits[@]}" "$@"
