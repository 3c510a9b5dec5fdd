//! SyncVirtualMachine (contract/cmd-server.md 5): what a VMI needs before its domain can be defined, the defines, the
//! start. What a later sync does to the devices is in `live`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::live;
use super::means::Boot;
use super::prepare::disks::Disks;
use super::prepare::hooks::Extensions;
use super::prepare::images::{LOOKING, round_up};
use super::prepare::iommufd;
use super::prepare::pod_network::Nics;
use super::prepare::{cloud_init, growth, image_volumes, missing, pod_network, running, tracking};
use super::refusal::refusal;
use super::storage_io::storage_io;
use crate::cmd::SyncRequest;
use crate::convert::{self, Defines, HostFacts, SyncOptions};
use crate::daemon::DaemonState;
use crate::domain::{DomainSpec, LifeCycle};
use crate::hypervisor::{Hypervisor, Verdict, Version, XmlKind, host_architecture};
use crate::launcher::error::Error;
use crate::launcher::facts::{self, Pod};
use crate::launcher::vm::Vm;
use crate::launcher::vm::metadata::note_vmi;
use crate::logging::shared_out;
use crate::vmi::VirtualMachineInstance;

/// How long the start of a VM waits for virtlogd; it is restarted at least once a second.
const VIRTLOGD_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a sync was the one that started the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    Now,
    Before,
}

/// What the machine and the pod look like, and what a VMI becomes on them as far as it does not depend on the disks' files.
struct Converted {
    facts: HostFacts,
    draft: DomainSpec,
}

fn refused_by(verdict: &Verdict) -> Result<(), Error> {
    verdict.refusal().map_or(Ok(()), |refusal| Err(Error::vmi(refusal)))
}

impl Boot {
    /// One sync. `defined` is set as soon as libvirt knows the domain.
    pub async fn sync(&self, vm: &Vm, request: SyncRequest, defined: &watch::Sender<bool>) -> Result<(), Error> {
        let begun = Instant::now();
        let (synced, shares) = shared_out(self.reconcile(vm, request, defined)).await;
        if synced.is_err() && !*defined.borrow() {
            // Nothing holds the container disks yet: the next attempt may find others.
            self.inspected().clear();
        }
        if synced? == Started::Now {
            let [took, libvirt, images] = [begun.elapsed(), shares.libvirt, shares.images].map(|time| time.as_millis());
            tracing::info!("started the VM in {took} ms: {libvirt} ms of libvirt, {images} ms of qemu-img");
        }
        Ok(())
    }

    async fn reconcile(&self, vm: &Vm, request: SyncRequest, defined: &watch::Sender<bool>) -> Result<Started, Error> {
        match (vm.metadata.snapshot().migration_under_way(), vm.is_incoming()) {
            (Some(migration), true) => {
                let uid = &migration.uid;
                return Err(Error::not_now(format!("the VM comes here by migration {uid}, which has not ended")));
            }
            // Its devices stay as they are until it has arrived, or stays.
            (Some(_), false) => return Ok(Started::Before),
            (None, _) => {}
        }
        let SyncRequest { mut vmi, options, plugins, vmi_json } = request;
        if vmi.metadata.uid.is_empty() {
            // A person's file: the pod's directories are those of the VMI that it was made for.
            vmi.metadata.uid.clone_from(&self.config.uid);
        }
        let extensions = Extensions::new(&self.hooks, &plugins, vmi_json)?;
        self.check(&vmi)?;
        if vm.tracker.has_ended() {
            // A VM that has run is not run again, whatever virt-handler knows by now: that would be another VM.
            return Ok(Started::Before);
        }
        let facts = self.facts(vm, &vmi, options).await?;
        let must_define = self.must_define(vm).await?;
        let hot_plugs = self.runtime.entry().launcher.hot_plug;
        let problems = match must_define {
            true => convert::problems(&vmi, &facts),
            // What has come since, before a device is touched. Where none can come, nothing is made of the VMI.
            false if hot_plugs => convert::problems_of_running(&vmi, &facts),
            false => Vec::new(),
        };
        if let Some(told) = convert::told(&problems) {
            return Err(Error::vmi(told));
        }
        tracking::make_overlays(self, &vmi, &facts).await?;
        if must_define {
            self.check_version(vm, &vmi).await?;
            let draft = facts::draft(&vmi, &facts).map_err(|error| Error::vmi(error.to_string()))?;
            let converted = Converted { facts: facts.clone(), draft };
            let data = self.gather_cloud_init(&vmi, &extensions).await?;
            // The disk is another process's work, while which everything else gets ready for the start.
            let (ready, disk) = tokio::join!(
                self.prepare_and_define(vm, &vmi, converted, &extensions),
                self.stage_cloud_init(&vmi, data)
            );
            ready?;
            if let Some(disk) = disk? {
                disk.publish().await.map_err(cloud_init::failed)?;
            }
            vm.metadata.edit(|metadata| note_vmi(metadata, &vmi));
            self.prepared.store(true, Ordering::Relaxed);
            defined.send_replace(true);
        } else {
            // NICs that came while the VM runs, or that the previous launcher served.
            let served = pod_network::serve(self, &vmi, &facts, Nics::ThatAreThere).await;
            served.unwrap_or_else(|why| tracing::warn!("DHCP: {why}"));
        }
        let now = vm.control.state().await?;
        let phase = vmi.status.phase.as_str();
        let mut started = Started::Before;
        if now.may_be_started() && !matches!(phase, "Running" | "Failed" | "Succeeded") {
            vm.tracker.end_strays();
            self.start(vm, &vmi).await?;
            started = Started::Now;
        } else if now.status == LifeCycle::Paused && !vm.paused.contains(&vmi.metadata.uid) {
            vm.control.resume().await?;
        }
        if hot_plugs {
            live::reconcile(vm, &vmi, &facts).await?;
        }
        Ok(started)
    }

    /// Whether the domain has to be defined: it is not there, or a launcher that died left it half-made. How far that one
    /// came does not matter; a domain that has never run is made anew, with all it needs.
    async fn must_define(&self, vm: &Vm) -> Result<bool, Error> {
        if !vm.control.exists().await? {
            return Ok(true);
        }
        if self.prepared.load(Ordering::Relaxed) || vm.tracker.was_seen() {
            return Ok(false);
        }
        let now = vm.control.state().await?;
        Ok(now.may_be_started())
    }

    /// The VMI must be this pod's, and must not ask for another hypervisor.
    pub(super) fn check(&self, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        let name = vmi.domain_name();
        let own = format!("{}_{}", self.config.namespace, self.config.name);
        if name != own {
            return Err(Error::vmi(format!("VMI {name} was sent to the launcher of {own}")));
        }
        let wanted = vmi.spec.hypervisor.as_str();
        if !wanted.is_empty() {
            let (wanted, _) =
                self.catalogue.get(wanted).map_err(|error| Error::vmi(format!("spec.hypervisor: {error}")))?;
            if wanted != self.runtime.name() {
                return Err(Error::vmi(format!(
                    "spec.hypervisor: {wanted} is asked for, but this pod was made for {} (--hypervisor)",
                    self.runtime.name()
                )));
            }
        }
        refused_by(&self.verdict(vmi, None))
    }

    /// What a newer libvirt could do is refused before the define. libvirt is asked only if there is such a thing.
    async fn check_version(&self, vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        if !self.verdict(vmi, None).depends_on_version() {
            return Ok(());
        }
        let libvirt = Version::from_number(vm.connection.libvirt_version().await?);
        refused_by(&self.verdict(vmi, Some(libvirt)))
    }

    fn verdict(&self, vmi: &VirtualMachineInstance, libvirt: Option<Version>) -> Verdict {
        Verdict::of(self.runtime.name(), self.runtime.features(), vmi, host_architecture(), libvirt)
    }

    /// What the machine and the pod look like now, but for the disks' files.
    pub(super) async fn facts(
        &self,
        vm: &Vm,
        vmi: &VirtualMachineInstance,
        options: SyncOptions,
    ) -> Result<HostFacts, Error> {
        let images = match running::images(vm, vmi).await? {
            Some(images) => images,
            None => {
                if self.config.image_volume {
                    image_volumes::link_all(&self.root, &self.config.container_disk_dir, vmi)?;
                }
                self.inspect_all(vmi).await?;
                self.inspected().clone()
            }
        };
        let (config, vmi) = (Arc::clone(&self.config), vmi.clone());
        let hypervisor = facts::hypervisor_facts(self.runtime.entry(), &self.root, &vmi.domain_name());
        let root = self.root.clone();
        let iommufd = Arc::clone(&self.iommufd);
        storage_io("gathering the machine's facts", move || {
            let iommufd = iommufd.receive(&facts::below(&root, iommufd::SOCKET), iommufd::DEADLINE)?;
            let pod = Pod { root: &root, config: &config, hypervisor, iommufd };
            Ok(facts::collect(&pod, &vmi, options, &images))
        })
        .await?
        .map_err(|why: String| Error::other(why))
    }

    pub(super) fn disks(&self) -> Disks<'_> {
        Disks {
            tools: &self.tools,
            backing_chains: self.runtime.follows_backing_chains(),
            owner: self.owner,
            root: &self.root,
            ephemeral_disk_dir: &self.config.ephemeral_disk_dir,
            container_disk_dir: &self.config.container_disk_dir,
        }
    }

    async fn prepare_and_define(
        &self,
        vm: &Vm,
        vmi: &VirtualMachineInstance,
        converted: Converted,
        extensions: &Extensions<'_>,
    ) -> Result<(), Error> {
        let facts = self.prepare(vmi, converted).await?;
        if let Ok(facts) = serde_json::to_string(&facts) {
            tracing::info!(v = 5, facts, "converting the VMI");
        }
        let defines = Defines::new(vmi, &facts).map_err(|error| Error::vmi(error.to_string()))?;
        self.define(vm, vmi, defines, extensions).await
    }

    /// Everything that has to be there before the define, and the facts with what the disks' files can do. The cloud-init
    /// disk comes under its name later: its place is looked at as it was for the original, which made it last.
    async fn prepare(&self, vmi: &VirtualMachineInstance, converted: Converted) -> Result<HostFacts, Error> {
        let Converted { mut facts, draft: domain } = converted;
        pod_network::prepare(self, vmi, &facts).await?;
        let domain = self.check_volumes(vmi, domain).await?;
        self.disks().prepare(vmi, &facts).await?;
        self.inspect_again(vmi).await?;
        // The sizes are the final ones before cache modes are chosen for them.
        growth::grow(&self.tools, &self.root, &domain.devices.disks).await;
        let (root, made_at_start, vmi) = (self.root.clone(), self.cloud_init_dir(), vmi.clone());
        storage_io(LOOKING, move || {
            missing::check(&root, &made_at_start, &vmi, &domain)?;
            let without_direct_io = round_up(&root, &vmi, &facts, &domain)?;
            facts::probe_disks(&root, &domain, &mut facts);
            facts.direct_io.paths.extend(without_direct_io.into_iter().map(|path| (path, "no".to_owned())));
            Ok(facts)
        })
        .await?
    }

    /// The boot's defines; a define that fails leaves no half-made domain behind.
    async fn define(
        &self,
        vm: &Vm,
        vmi: &VirtualMachineInstance,
        mut defines: Defines,
        extensions: &Extensions<'_>,
    ) -> Result<(), Error> {
        let result = async {
            loop {
                let converted = defines.xml();
                let xml = extensions.on_define_domain(converted.clone()).await?;
                if xml != converted {
                    defines.replace(&xml).map_err(|error| Error::other(error.to_string()))?;
                }
                tracing::info!(v = 5, xml, "defining the domain");
                vm.control.define(xml).await.map_err(|error| refusal(vmi, error))?;
                if defines.is_last() {
                    return Ok(());
                }
                let readback = match defines.needs_readback() {
                    true => Some(vm.control.xml(XmlKind::Inactive).await?),
                    false => None,
                };
                if let Some(readback) = &readback {
                    tracing::info!(v = 5, readback, "read the domain back");
                    defines.keep_uuid(readback).map_err(|error| Error::other(error.to_string()))?;
                }
                defines.next(readback.as_deref()).map_err(|error| Error::other(error.to_string()))?;
            }
        }
        .await;
        if result.is_err() {
            // Whether there is anything to undefine does not matter: the first error is the one to report.
            let _ = vm.control.undefine().await;
        }
        result
    }

    async fn start(&self, vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        if let Some(descriptor) = self.iommufd.copy().map_err(Error::other)? {
            let given = vm.control.associate(c"iommu", descriptor).await;
            given.map_err(|error| Error::other(format!("failed to associate IOMMUFD FD with domain: {error}")))?;
        }
        self.make_late_cloud_init(vm, vmi).await?;
        let paused_by_user = vmi.spec.start_strategy == "Paused";
        let isolated =
            vmi.spec.domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement && cpu.isolate_emulator_thread);
        if paused_by_user {
            vm.paused.insert(&vmi.metadata.uid);
        }
        self.wait_for_virtlogd().await;
        let started = vm.control.start(paused_by_user || isolated).await;
        started.map_err(|error| refusal(vmi, error))?;
        vm.tracker.look();
        Ok(())
    }

    /// No hypervisor starts without virtlogd, which may be on its way back. Where it does not come libvirt says what is missing.
    async fn wait_for_virtlogd(&self) {
        let Some(mut state) = self.virtlogd.clone() else { return };
        let runs = |state: &DaemonState| matches!(state, DaemonState::Running { .. });
        if tokio::time::timeout(VIRTLOGD_PATIENCE, state.wait_for(runs)).await.is_err() {
            tracing::warn!("the VM is started although virtlogd is not there: {:?}", *state.borrow());
        }
    }
}
