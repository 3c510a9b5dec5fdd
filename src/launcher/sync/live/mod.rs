//! What later syncs do to a domain that is there (contract/cmd-server.md 5.1, steps 10 to 13), and the RPCs that change
//! its CPUs, memory and host devices. What has to be done is found by pure functions, one file per kind of device.

pub mod cpu;
pub mod disks;
mod failures;
pub mod host_devices;
pub mod interfaces;
pub mod memory;
pub mod resize;
mod volumes;

use crate::convert::{self, ConvertError, HostFacts};
use crate::domain::{DomainSpec, Interface};
use crate::hypervisor::XmlKind;
use crate::launcher::error::Error;
use crate::launcher::vm::{Vm, domain_xml};
use crate::vmi::VirtualMachineInstance;
use failures::Failures;
use interfaces::InterfaceChange;

fn worded(error: ConvertError) -> Error {
    Error::vmi(error.to_string())
}

/// The running domain as it is and as the VMI wants it. `wanted` is matched to `live`: what stays has its names and places.
struct Devices {
    live: DomainSpec,
    wanted: DomainSpec,
}

impl Devices {
    fn new(vmi: &VirtualMachineInstance, facts: &HostFacts, xml: &str) -> Result<Self, Error> {
        let live = domain_xml::read(xml)?;
        let wanted = convert::convert_for_running(vmi, facts, &live).map_err(worded)?;
        Ok(Devices { live, wanted })
    }

    /// The same once devices have gone, which sets their names free.
    async fn read(vm: &Vm, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Self, Error> {
        Devices::new(vmi, facts, &vm.control.xml(XmlKind::Current).await?)
    }
}

/// Brings the devices and the metadata of a defined domain in line with the VMI; `facts` are this sync's.
pub async fn reconcile(vm: &Vm, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<(), Error> {
    let mut failures = Failures::new(vmi);
    let snapshot = vm.control.snapshot().await?;
    if let Some(xml) = snapshot.xml.filter(|_| !snapshot.state.may_be_started()) {
        let devices = Devices::new(vmi, facts, &xml)?;
        let mut devices = volumes::reconcile(vm, vmi, facts, devices, &mut failures).await?;
        if vmi.status.phase == "Running" {
            let changes =
                interfaces::changes(vmi, &devices.live.devices.interfaces, &devices.wanted.devices.interfaces);
            apply(vm, vmi, facts, &mut devices.wanted, changes, &mut failures).await?;
        }
    }
    remember(vm, vmi);
    failures.outcome()
}

async fn apply(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    wanted: &mut DomainSpec,
    changes: Vec<InterfaceChange>,
    failures: &mut Failures<'_>,
) -> Result<(), Error> {
    for change in changes {
        let (name, outcome) = match change {
            InterfaceChange::Attach(name) => {
                if let Err(error) = convert::fill_in_taps(vmi, facts, wanted, &|other| other == name) {
                    failures.refuse(&name, worded(error));
                    continue;
                }
                let device = interfaces::find(&wanted.devices.interfaces, &name)
                    .ok_or_else(|| Error::other("could not retrieve the api.Interface object from the dummy domain"))?;
                tracing::info!("plugging interface {name} on {}", tap(device));
                let outcome = vm.control.attach_device(device.to_xml()).await;
                (name, outcome)
            }
            InterfaceChange::Detach(device) => {
                tracing::info!("unplugging the interface on {}", tap(&device));
                (device.alias_name().to_owned(), vm.control.detach_device(device.to_xml()).await)
            }
            InterfaceChange::SetLink(device) => {
                let link = device.link_state.as_ref().map_or("up", |link| link.state.as_str());
                tracing::info!("setting the link of the interface on {} {link}", tap(&device));
                (device.alias_name().to_owned(), vm.control.update_device(device.to_xml()).await)
            }
        };
        failures.note(&name, outcome)?;
    }
    Ok(())
}

fn tap(device: &Interface) -> &str {
    device.target.as_ref().map(|target| target.device.as_str()).unwrap_or_default()
}

/// Metadata that follows the VMI (5.1, step 13).
fn remember(vm: &Vm, vmi: &VirtualMachineInstance) {
    let seconds = vmi.spec.termination_grace_period_seconds.unwrap_or_default();
    vm.metadata.edit(|metadata| metadata.grace_period.get_or_insert_default().deletion_grace_period_seconds = seconds);
}
