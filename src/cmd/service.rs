//! The services as gRPC sees them: a table of contents, one line per call.

use std::sync::Arc;

use tonic::{Request, Response as Reply, Status};

use super::failure::response;
use super::{Action, Driver, backup, getters, guest, jobs, lifecycle, measures, migration, vm_stats};
use crate::proto::cmd_info::cmd_info_server::CmdInfo;
use crate::proto::cmd_info::{CmdInfoRequest, CmdInfoResponse};
use crate::proto::cmd_v1::cmd_server::Cmd;
use crate::proto::cmd_v1::*;
use crate::vmi::VirtualMachineInstance;

/// Versions of the command protocol that this launcher speaks.
pub(super) const VERSIONS: &[u32] = &[1];

/// Answers which versions there are.
pub(super) struct InfoService;

#[tonic::async_trait]
impl CmdInfo for InfoService {
    async fn info(&self, _: Request<CmdInfoRequest>) -> Result<Reply<CmdInfoResponse>, Status> {
        Ok(Reply::new(CmdInfoResponse { supported_cmd_versions: VERSIONS.to_vec() }))
    }
}

/// Answers everything else through the driver.
pub(super) struct CmdService {
    driver: Arc<dyn Driver>,
}

impl CmdService {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Self {
        CmdService { driver }
    }

    async fn steer(
        &self,
        rpc: &'static str,
        action: fn(Box<VirtualMachineInstance>) -> Action,
        request: Request<VmiRequest>,
    ) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(lifecycle::steer(&*self.driver, rpc, action, request.into_inner()).await))
    }
}

#[tonic::async_trait]
impl Cmd for CmdService {
    async fn sync_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(lifecycle::sync(&*self.driver, request.into_inner()).await))
    }

    async fn pause_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("PauseVirtualMachine", Action::Pause, request).await
    }

    async fn unpause_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("UnpauseVirtualMachine", Action::Unpause, request).await
    }

    async fn reset_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("ResetVirtualMachine", Action::Reset, request).await
    }

    async fn soft_reboot_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("SoftRebootVirtualMachine", Action::SoftReboot, request).await
    }

    async fn shutdown_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("ShutdownVirtualMachine", Action::Shutdown, request).await
    }

    async fn kill_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("KillVirtualMachine", Action::Kill, request).await
    }

    async fn delete_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("DeleteVirtualMachine", Action::Delete, request).await
    }

    async fn signal_target_pod_cleanup(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(lifecycle::signal_target_pod_cleanup(&*self.driver, request.into_inner()).await))
    }

    async fn ping(&self, _: Request<EmptyRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(response(Ok(()))))
    }

    async fn get_domain(&self, _: Request<EmptyRequest>) -> Result<Reply<DomainResponse>, Status> {
        Ok(Reply::new(getters::domain(&*self.driver)))
    }

    async fn get_qemu_version(&self, _: Request<EmptyRequest>) -> Result<Reply<QemuVersionResponse>, Status> {
        Ok(Reply::new(getters::qemu_version(&*self.driver)))
    }

    async fn get_domain_stats(&self, _: Request<EmptyRequest>) -> Result<Reply<DomainStatsResponse>, Status> {
        Ok(Reply::new(measures::domain_stats(&*self.driver).await))
    }

    async fn get_domain_dirty_rate_stats(
        &self,
        _: Request<EmptyRequest>,
    ) -> Result<Reply<DirtyRateStatsResponse>, Status> {
        Ok(Reply::new(measures::dirty_rate(&*self.driver).await))
    }

    async fn get_guest_info(&self, _: Request<EmptyRequest>) -> Result<Reply<GuestInfoResponse>, Status> {
        Ok(Reply::new(getters::guest_info(&*self.driver)))
    }

    async fn get_users(&self, _: Request<EmptyRequest>) -> Result<Reply<GuestUserListResponse>, Status> {
        Ok(Reply::new(getters::users(&*self.driver)))
    }

    async fn get_filesystems(&self, _: Request<EmptyRequest>) -> Result<Reply<GuestFilesystemsResponse>, Status> {
        Ok(Reply::new(getters::filesystems(&*self.driver)))
    }

    async fn get_sev_info(&self, _: Request<EmptyRequest>) -> Result<Reply<SevInfoResponse>, Status> {
        Ok(Reply::new(measures::sev_info(&*self.driver).await))
    }

    async fn get_launch_measurement(
        &self,
        request: Request<VmiRequest>,
    ) -> Result<Reply<LaunchMeasurementResponse>, Status> {
        Ok(Reply::new(measures::launch_measurement(&*self.driver, request.into_inner()).await))
    }

    async fn get_screenshot(&self, request: Request<VmiRequest>) -> Result<Reply<ScreenshotResponse>, Status> {
        Ok(Reply::new(measures::screenshot(&*self.driver, request.into_inner()).await))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Reply<ExecResponse>, Status> {
        guest::exec(&*self.driver, request.into_inner()).await.map(Reply::new)
    }

    async fn guest_ping(&self, request: Request<GuestPingRequest>) -> Result<Reply<GuestPingResponse>, Status> {
        guest::ping(&*self.driver, request.into_inner()).await.map(Reply::new)
    }

    async fn get_vm_stats(&self, request: Request<VmStatsRequest>) -> Result<Reply<VmStatsResponse>, Status> {
        vm_stats::vm_stats(&*self.driver, request.into_inner()).await.map(Reply::new)
    }

    async fn freeze_virtual_machine(&self, request: Request<FreezeRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(lifecycle::freeze(&*self.driver, request.into_inner()).await))
    }

    async fn unfreeze_virtual_machine(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("UnfreezeVirtualMachine", Action::Unfreeze, request).await
    }

    async fn sync_migration_target(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        let request = request.into_inner();
        let prepared =
            lifecycle::with_options(&*self.driver, "SyncMigrationTarget", Action::ReceiveMigration, request).await;
        Ok(Reply::new(prepared))
    }

    async fn migrate_virtual_machine(&self, request: Request<MigrationRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(migration::migrate(&*self.driver, request.into_inner()).await))
    }

    async fn cancel_virtual_machine_migration(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(migration::cancel(&*self.driver, request.into_inner()).await))
    }

    async fn finalize_virtual_machine_migration(
        &self,
        request: Request<VmiRequest>,
    ) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(migration::finalize(&*self.driver, request.into_inner()).await))
    }

    async fn hotplug_host_devices(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(
            lifecycle::with_options(
                &*self.driver,
                "HotplugHostDevices",
                Action::HotplugHostDevices,
                request.into_inner(),
            )
            .await,
        ))
    }

    async fn sync_virtual_machine_cp_us(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(
            lifecycle::with_options(&*self.driver, "SyncVirtualMachineCPUs", Action::SyncCpus, request.into_inner())
                .await,
        ))
    }

    async fn sync_virtual_machine_memory(&self, request: Request<VmiRequest>) -> Result<Reply<Response>, Status> {
        self.steer("SyncVirtualMachineMemory", Action::SyncMemory, request).await
    }

    async fn virtual_machine_memory_dump(
        &self,
        request: Request<MemoryDumpRequest>,
    ) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(jobs::memory_dump(&*self.driver, request.into_inner()).await))
    }

    async fn inject_launch_secret(
        &self,
        request: Request<InjectLaunchSecretRequest>,
    ) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(jobs::inject_launch_secret(&*self.driver, request.into_inner()).await))
    }

    async fn backup_virtual_machine(&self, request: Request<BackupRequest>) -> Result<Reply<Response>, Status> {
        Ok(Reply::new(backup::backup(&*self.driver, request.into_inner()).await))
    }

    async fn redefine_checkpoint(
        &self,
        request: Request<RedefineCheckpointRequest>,
    ) -> Result<Reply<RedefineCheckpointResponse>, Status> {
        Ok(Reply::new(backup::redefine_checkpoint(&*self.driver, request.into_inner()).await))
    }
}
