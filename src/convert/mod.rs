//! VMI to domain document, pure: all facts about the machine come in as values.
//!
//! `convert` runs the steps of the hypervisor's profile in order on an empty document, then the pre-start additions;
//! `Defines` is the sequence of defines with libvirt's read-back in between. Nothing here touches the machine or reads a
//! clock.

mod arch;
mod cloud_init;
mod context;
mod cpu_pool;
mod cpu_topology;
mod defines;
mod error;
mod facts;
mod field_of;
mod firmware;
mod grace;
mod host_devices;
mod io_modes;
mod io_threads;
mod limits;
mod network_phase2;
mod numa_placement;
mod options;
mod pci;
mod pci_address;
mod rules;
mod steps;

pub use arch::Arch;
pub use context::Context;
pub use cpu_topology::topology;
pub use defines::Defines;
pub use error::ConvertError;
pub use facts::{
    BlockSizes, ContainerDiskInfo, DirectIo, HostFacts, HypervisorFacts, Link, NumaNode, Ovmf, PciDevice, Profile,
    Sysfs,
};
pub use field_of::field_of;
pub use host_devices::{CLAIM_METADATA_VERSION, gpus};
pub use limits::{memory_bytes, vcpus};
pub use network_phase2::hot_pluggable_tap;
pub use network_phase2::{Tap, taps};
pub use options::{Cell, ClusterConfig, Distance, HostCpu, Smbios, SyncOptions, Topology};
pub use pci_address::kernel_name;
pub use rules::{problems, problems_of_running, told};
pub use steps::{STEPS, Step, steps};

use std::collections::BTreeMap;

use crate::domain::{CpuTune, DomainSpec, QEMU_NAMESPACE};
use crate::vmi::VirtualMachineInstance;

/// Converts a VMI to the document of the first define, pre-start additions included
/// (contract/domain-xml-qemu.md 1, steps 1 to 7).
pub fn convert(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<DomainSpec, ConvertError> {
    convert_in(&Context::new(vmi, facts)?, &mut |_, _| {})
}

/// The document as far as it does not depend on the disks' files: no block sizes of volumes, and direct I/O everywhere.
pub fn draft(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<DomainSpec, ConvertError> {
    let (vmi, facts) = draft_of(vmi, facts);
    convert(&vmi, &facts)
}

/// A VMI and facts that do not ask the disks' files.
fn draft_of(vmi: &VirtualMachineInstance, facts: &HostFacts) -> (VirtualMachineInstance, HostFacts) {
    let mut vmi = vmi.clone();
    for size in vmi.spec.domain.devices.disks.iter_mut().filter_map(|disk| disk.block_size.as_mut()) {
        size.match_volume = None;
    }
    let direct_io = DirectIo { default: true, paths: BTreeMap::new() };
    (vmi, HostFacts { direct_io, ..facts.clone() })
}

fn convert_in(
    context: &Context<'_>,
    observe: &mut dyn FnMut(&'static str, &DomainSpec),
) -> Result<DomainSpec, ConvertError> {
    let mut domain = run_steps(context, observe)?;
    cloud_init::check(context)?;
    network_phase2::fill_in_taps(context, &mut domain, &|_| true)?;
    observe("network phase 2", &domain);
    if context.facts.hypervisor.profile == Profile::Qemu {
        io_modes::probe(context, &mut domain)?;
        observe("cache and IO modes", &domain);
    }
    Ok(domain)
}

/// Converts a VMI whose domain runs and looks like `live`: what a later sync compares with it. What is there already has
/// the names and places that it has there. Pre-start additions are left to the devices that turn out to be new
/// ([`fill_in_taps`], [`set_io_modes`]).
pub fn convert_for_running(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    live: &DomainSpec,
) -> Result<DomainSpec, ConvertError> {
    let mut context = Context::new(vmi, facts)?;
    context.live = &live.devices.disks;
    run_steps(&context, &mut |_, _| {})
}

/// Fills in target, MAC and MTU of the `wanted` interfaces from the pod's links.
pub fn fill_in_taps(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    domain: &mut DomainSpec,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(), ConvertError> {
    network_phase2::fill_in_taps(&Context::new(vmi, facts)?, domain, wanted)
}

/// Fills in cache and IO mode of one disk from what `facts` say of its paths.
pub fn set_io_modes(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    disk: &mut crate::domain::Disk,
) -> Result<(), ConvertError> {
    io_modes::probe_disk(&Context::new(vmi, facts)?, disk)
}

/// Pinning for a domain whose vCPUs have changed, by the logic of the first define; `None` without dedicated CPUs.
pub fn pinning(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    live: &DomainSpec,
) -> Result<Option<CpuTune>, ConvertError> {
    let mut domain = live.clone();
    domain.cpu_tune = None;
    steps::pin(&Context::new(vmi, facts)?, &mut domain)?;
    Ok(domain.cpu_tune)
}

fn run_steps(
    context: &Context<'_>,
    observe: &mut dyn FnMut(&'static str, &DomainSpec),
) -> Result<DomainSpec, ConvertError> {
    grace::check(context)?;
    let mut domain = DomainSpec::default();
    observe("document", &domain);
    let profile = context.facts.hypervisor.profile;
    for step in steps(profile) {
        (step.run)(context, &mut domain)?;
        observe(step.name, &domain);
    }
    if profile == Profile::Qemu {
        place_pci_devices(context, &mut domain)?;
        observe("PCI placement", &domain);
        domain.xml_ns = QEMU_NAMESPACE.to_owned();
        if domain.type_.is_empty() {
            domain.type_ = "kvm".to_owned();
        }
        observe("document", &domain);
    }
    Ok(domain)
}

/// Near their NUMA node, or on the root complex (contract/domain-xml-qemu.md 1, steps 4 and 5).
fn place_pci_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if grace::is_wanted(context) {
        return grace::place(context, domain);
    }
    numa_placement::place(context, domain)?;
    pci::place_on_root_complex(context, domain)
}
