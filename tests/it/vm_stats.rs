//! GetVMStats over a real socket: which parts are asked for, and what becomes of parts that fail.

use std::sync::Arc;
use std::time::Duration;

use crate::support::driver::Scripted;
use virt_launcher::cmd::{Failure, SocketPaths, Timings, bind, client, serve};
use virt_launcher::libvirt::VirError;
use virt_launcher::proto::cmd_v1::*;

/// For what must happen at once; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

async fn ask(driver: Arc<Scripted>, request: VmStatsRequest) -> Result<VmStatsResponse, tonic::Status> {
    let share = tempfile::tempdir().unwrap();
    let paths = SocketPaths::below(share.path());
    let server = tokio::spawn(serve(bind(&paths.init).unwrap(), driver, Timings::default(), std::future::pending()));
    let reply = client::connect(&paths.init, SOON).await.unwrap().get_vm_stats(request).await;
    server.abort();
    reply.map(tonic::Response::into_inner)
}

fn some() -> VmStatsRequest {
    VmStatsRequest {
        domain_stats: Some(DomainStatsRequest {}),
        guest_get_time: Some(AgentTimeRequest {}),
        guest_get_load: Some(AgentLoadRequest {}),
        ..VmStatsRequest::default()
    }
}

#[tokio::test]
async fn get_vm_stats_without_the_feature_gate_fails() {
    let refused = ask(Arc::default(), some()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unknown);
    assert_eq!(refused.message(), "VMStatsCollector feature gate is not enabled");
}

#[tokio::test]
async fn get_vm_stats_measures_only_what_is_asked_for() {
    let driver = Arc::new(Scripted { collects_vm_stats: true, ..Scripted::default() });
    let reply = ask(Arc::clone(&driver), some()).await.unwrap();
    assert_eq!(reply.response, Some(Response { success: true, message: String::new() }));
    assert_eq!(reply.domain_stats.unwrap().domain_stats, "{}");
    assert_eq!(reply.guest_get_load.unwrap(), Response { success: true, message: "guest-get-load".into() });
    assert_eq!(reply.guest_get_time.unwrap().message, "guest-get-time");
    assert_eq!(reply.guest_agent_version.unwrap().message, "7.2.22");
    assert!(reply.dirty_rate_stats.is_none() && reply.guest_get_users.is_none());
    assert_eq!(driver.measured.lock().unwrap().len(), 2);

    let rate = VmStatsRequest { dirty_rate: Some(DirtyRateRequest {}), ..VmStatsRequest::default() };
    let reply = ask(Arc::clone(&driver), rate).await.unwrap();
    assert_eq!(reply.dirty_rate_stats.unwrap().dirty_rate_mbs, 7);
    assert!(reply.guest_agent_version.is_none(), "nobody asked for the agent");
}

#[tokio::test]
async fn parts_that_fail_are_listed_in_order() {
    let error = VirError { code: 1, domain: 2, message: "broken".into() };
    let unmeasured = Some(Failure::Wrapped { context: "failed".into(), error });
    let driver = Scripted { collects_vm_stats: true, unmeasured, ..Scripted::default() };
    let request = VmStatsRequest { dirty_rate: Some(DirtyRateRequest {}), ..some() };
    let reply = ask(Arc::new(driver), request).await.unwrap();
    let why = "failed: virError(Code=1, Domain=2, Message='broken')";
    let expected = format!(
        "domain stats: {why}; dirty rate stats: {why}; agent data guest-get-load: {why}; \
         agent data guest-get-time: {why}"
    );
    assert_eq!(reply.response, Some(Response { success: false, message: expected }));
    assert!(!reply.guest_get_load.unwrap().success);
}
