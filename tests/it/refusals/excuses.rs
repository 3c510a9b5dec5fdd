//! Where this launcher and libvirt may differ, each with the field and the reason.

use super::cases::Case;

/// A difference that is meant. A long run fails over one that no case needs any more.
pub struct Excuse {
    /// What one of the case's changed fields contains.
    pub of: &'static str,
    /// What is said.
    pub says: &'static str,
    /// Why it is right.
    pub why: &'static str,
    /// Whether the launcher puts a field before what libvirt says.
    pub is_named: bool,
}

impl Excuse {
    pub fn covers(&self, case: &Case, said: &str) -> bool {
        said.contains(self.says) && case.paths.iter().any(|path| path.contains(self.of))
    }
}

/// libvirt's answer, which the launcher passes on behind the field.
const fn named(of: &'static str, says: &'static str, why: &'static str) -> Excuse {
    Excuse { of, says, why, is_named: true }
}

const fn excuse(of: &'static str, says: &'static str, why: &'static str) -> Excuse {
    Excuse { of, says, why, is_named: false }
}

/// What a libvirt or QEMU says of its machine, its build or its guest's files, not of the VMI.
pub const OF_THE_MACHINE: &[Excuse] = &[
    named("cpu.model", "Unknown CPU model", "libvirt's list of models is its build's"),
    named("cpu", "unknown CPU feature", "libvirt's list of features is its build's"),
    named("cpu", "incompatible with host CPU", "a model or feature of another machine"),
    named("cpu", "not supported by hypervisor", "host-passthrough takes KVM"),
    named("cpu.features", "invariant TSC", "emulation has none"),
    named("launchSecurity", "launch security is not supported", "SEV and SNP take such a processor"),
    named("launchSecurity", "'launchSecurity': 'tdx'", "TDX takes a newer libvirt"),
    named("machine.type", "does not support machine type", "the list of machine types is QEMU's build's"),
    named("video.type", "does not support video model", "the list of video devices is QEMU's build's"),
    named("features", "paravirtual spinlocks", "they take KVM"),
    named("VSOCKCID", "vhost-vsock", "the device is not in the container"),
    named("memory", "cannot set up guest memory", "this machine has less memory"),
    named("memory", "hugetlbfs", "this machine has no huge pages"),
    named("memory", "phys-bits too low", "emulation's processor has fewer address bits"),
    excuse("kernelBoot", "No such file", "the kernel is not in the container"),
    excuse("filesystems", "/virtiofs-containers/", "virtiofsd runs beside the launcher"),
    excuse("interfaces[1]", "specified dev doesn't exist", "the second tap is not in the container"),
    excuse("disks[1]", "'/dev/block'", "the block device is not in the container"),
];

/// What this launcher says of values that libvirt and QEMU take for something else than what was meant, or that its own
/// parts cannot serve; the API refuses most of them.
pub const OF_THE_API: &[Excuse] = &[
    excuse("disks[1]", "it can be one of them", "the conversion would make one of the two"),
    excuse("bootloader", "has both efi and bios", "the conversion would make EFI of it, without a word"),
    excuse("disks[1]", "bytes are more than the 256 on", "QEMU cuts it off in silence"),
    excuse("disks[1]", "4294967295 is not a 32-bit multiple", "QEMU takes it for none given"),
    excuse("ioThreadsPolicy", "is none of shared, auto, supplementalPool", "it would be none"),
    excuse("ioThreads", "0 threads are no pool", "disks would share one thread"),
    excuse("rebootPolicy", "is none of Reboot, Terminate", "it would be Reboot"),
    excuse("startStrategy", "is none of Paused", "the guest would run"),
    excuse("interfaces[0].state", "is none of absent, down, up", "the link would be up"),
    excuse("interfaces[0].acpiIndex", "-1 is not between", "it would be none"),
    excuse("disks[1]", "disks[1].name: is missing", "two without a name would be one"),
    excuse("spec.volumes", "is not a name", "the names of files are made of it"),
    excuse("spec.domain.cpu", "sockets are less than the", "the guest would have fewer than asked for"),
    excuse("spec.domain.memory", "0 are less than the guest's", "libvirt takes it for none given"),
    excuse("chassis.asset", "that QEMU can be given", "room is kept for what stands beside it in the argument"),
];
