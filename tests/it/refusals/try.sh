#!/bin/sh
# Puts documents to the libvirt of this container: lines "INDEX START" on standard input, START being 1 or 0. Each step is
# bounded, and says with what it ended and after how many milliseconds:
#
#     @@ INDEX STEP CODE MILLISECONDS
#     what virsh said
#
# The steps are "define", "start", and "daemon" where libvirtd had to be started anew, because it hung or was gone.
umask 0

# Seconds for a define, and for a start of QEMU in emulation, also on a busy machine.
DEFINE=20
START=60

now() { date +%s%3N; }

bounded() { # index, step, seconds, command…
	index=$1 step=$2 seconds=$3
	shift 3
	begun=$(now)
	timeout -k 1 "$seconds" "$@" >/tmp/said 2>&1 </dev/null
	code=$?
	echo "@@ $index $step $code $(($(now) - begun))"
	head -c 4096 /tmp/said
	echo
	return $code
}

daemon() {
	rm -f /run/libvirtd.pid
	/usr/sbin/libvirtd -d
	tries=0
	until timeout -k 1 5 virsh -q list >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || exit 1
		sleep 0.1
	done
}

# Ends what a case left behind.
clean() {
	for uuid in $(timeout -k 1 10 virsh -q list --all --uuid 2>/dev/null); do
		timeout -k 1 20 virsh -q destroy "$uuid" >/dev/null 2>&1
		timeout -k 1 20 virsh -q undefine "$uuid" --nvram >/dev/null 2>&1
	done
}

qemus() {
	for process in /proc/[0-9]*; do
		case $(readlink "$process/exe") in */qemu-system-*) echo "${process#/proc/}" ;; esac
	done
}

# After a step that was given up: ends QEMU, and a daemon that does not answer or cannot let go of the domain.
heal() {
	for process in $(qemus); do kill -9 "$process"; done
	clean
	if [ -n "$(timeout -k 1 10 virsh -q list --all --uuid 2>&1)" ]; then
		kill -9 "$(cat /run/libvirtd.pid)" 2>/dev/null
		rm -f /etc/libvirt/qemu/*.xml /run/libvirt/qemu/*.xml
		echo "@@ $1 daemon 1 0"
		daemon
	fi
}

case ${1:-} in
daemons)
	mkdir -p /run/libvirt /run/kubevirt-private/u-1 /run/libvirt/empty-disks
	mkdir -p /run/kubevirt-private/libvirt/qemu/nvram /run/kubevirt-private/downwardmetrics-channel
	chmod -R 777 /run/kubevirt-private
	/usr/sbin/virtlogd -d
	daemon
	touch /tmp/ready
	# The first process of the container reaps the QEMUs that become its children; libvirt waits for them to be gone.
	while sleep 1; do :; done
	;;
esac

while read -r index start; do
	if bounded "$index" define $DEFINE virsh -q define "/documents/$index.xml" && [ "$start" = 1 ]; then
		uuid=$(timeout -k 1 10 virsh -q list --all --uuid | head -n 1)
		bounded "$index" start $START virsh -q start "$uuid" --paused
	fi
	# Those of `timeout`, and what virsh says when its daemon has gone.
	if [ $code = 124 ] || [ $code = 137 ] || grep -qE 'End of file|ailed to connect|Connection reset|Broken pipe' /tmp/said; then
		heal "$index"
	else
		clean
	fi
done
