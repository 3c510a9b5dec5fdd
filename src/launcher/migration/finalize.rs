//! FinalizeVirtualMachineMigration: what is left to do at the target (contract/migration.md 8.5).

use std::time::Duration;

use crate::domain::{DomainSpec, Interface, LifeCycle, LinkState};
use crate::hypervisor::XmlKind;
use crate::launcher::error::Error;
use crate::launcher::sync::live::interfaces::find;
use crate::launcher::vm::Vm;

/// How long a link is down, so that the guest asks for its address again.
const LINK_DOWN: Duration = Duration::from_millis(100);

/// Pulls the cables of the named interfaces and plugs them in again, and sets the guest's clock. It may be repeated.
pub async fn finalize(vm: &Vm, refresh: &[String]) -> Result<(), Error> {
    if !refresh.is_empty() {
        let live = vm.control.xml(XmlKind::Current).await?;
        let domain = DomainSpec::from_xml(&live)
            .map_err(|error| Error::other(format!("parsing domain XML failed, err: {error}")))?;
        for name in refresh {
            let Some(interface) = find(&domain.devices.interfaces, name) else { continue };
            let failed = |error| Error::other(format!("failed to update network {name}, err: {error}"));
            let down = LinkState { state: "down".to_owned() };
            let unplugged = Interface { link_state: Some(down), ..interface.clone() };
            vm.control.update_device(unplugged.to_xml()).await.map_err(failed)?;
            tokio::time::sleep(LINK_DOWN).await;
            vm.control.update_device(interface.to_xml()).await.map_err(failed)?;
        }
    }
    if vm.control.state().await.is_ok_and(|now| now.status == LifeCycle::Running) {
        vm.clock.synchronise(vm.connection.clone(), vm.domain.clone());
    }
    Ok(())
}
