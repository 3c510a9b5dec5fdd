//! `GetVMStats` (contract/cmd-server.md 4.3): several measurements and questions to the guest's agent in one call.

use std::collections::BTreeMap;

use tonic::Status;

use super::failure::{response, status};
use super::{AgentStats, Driver, Failure, measures};
use crate::proto::cmd_v1::{Response, VmStatsRequest, VmStatsResponse};

/// `GetVMStats`: what is asked for is measured side by side; one part that fails makes the whole reply a failure, as the
/// client takes it.
pub(super) async fn vm_stats(driver: &dyn Driver, request: VmStatsRequest) -> Result<VmStatsResponse, Status> {
    if !driver.collects_vm_stats() {
        return Err(status(&Failure::text("VMStatsCollector feature gate is not enabled")));
    }
    let questions = questions(&request);
    let (domain_stats, dirty_rate_stats, answers) = tokio::join!(
        async {
            match request.domain_stats {
                Some(_) => Some(measures::domain_stats(driver).await),
                None => None,
            }
        },
        async {
            match request.dirty_rate {
                Some(_) => Some(measures::dirty_rate(driver).await),
                None => None,
            }
        },
        async {
            match questions.is_empty() {
                true => Vec::new(),
                false => driver.agent_stats(questions.clone()).await,
            }
        }
    );
    let mut failures = Vec::new();
    let parts = [
        ("domain stats", domain_stats.as_ref().and_then(|stats| stats.response.as_ref())),
        ("dirty rate stats", dirty_rate_stats.as_ref().and_then(|stats| stats.response.as_ref())),
    ];
    for (part, reply) in parts {
        failures.extend(reply.filter(|reply| !reply.success).map(|reply| format!("{part}: {}", reply.message)));
    }
    let guest_agent_version =
        (!questions.is_empty()).then(|| Response { success: true, message: driver.agent_version() });
    let mut agent = BTreeMap::new();
    for (question, answer) in questions.into_iter().zip(answers) {
        let reply = match answer {
            Ok(json) => Response { success: true, message: json.to_string() },
            Err(failure) => response(Err(failure)),
        };
        if !reply.success {
            failures.push(format!("agent data {}: {}", question.command(), reply.message));
        }
        agent.insert(question, reply);
    }
    let mut answer = |question| agent.remove(&question);
    Ok(VmStatsResponse {
        response: Some(Response { success: failures.is_empty(), message: failures.join("; ") }),
        domain_stats,
        dirty_rate_stats,
        guest_agent_version,
        guest_get_load: answer(AgentStats::Load),
        guest_get_cpu_stats: answer(AgentStats::CpuStats),
        guest_get_disk_stats: answer(AgentStats::DiskStats),
        guest_get_time: answer(AgentStats::Time),
        guest_get_vcpus: answer(AgentStats::Vcpus),
        guest_get_memory_block_info: answer(AgentStats::MemoryBlockInfo),
        guest_get_users: answer(AgentStats::Users),
        guest_get_os_info: answer(AgentStats::OsInfo),
        guest_get_disks: answer(AgentStats::Disks),
        guest_get_host_name: answer(AgentStats::HostName),
        guest_get_timezone: answer(AgentStats::Timezone),
        guest_network_get_route: answer(AgentStats::NetworkRoute),
        guest_network_get_interfaces: answer(AgentStats::NetworkInterfaces),
        guest_get_memory_blocks: answer(AgentStats::MemoryBlocks),
    })
}

/// What the agent is to be asked, in the order of the request's fields.
fn questions(request: &VmStatsRequest) -> Vec<AgentStats> {
    [
        (AgentStats::Load, request.guest_get_load.is_some()),
        (AgentStats::CpuStats, request.guest_get_cpu_stats.is_some()),
        (AgentStats::DiskStats, request.guest_get_disk_stats.is_some()),
        (AgentStats::Time, request.guest_get_time.is_some()),
        (AgentStats::Vcpus, request.guest_get_vcpus.is_some()),
        (AgentStats::MemoryBlockInfo, request.guest_get_memory_block_info.is_some()),
        (AgentStats::Users, request.guest_get_users.is_some()),
        (AgentStats::OsInfo, request.guest_get_os_info.is_some()),
        (AgentStats::Disks, request.guest_get_disks.is_some()),
        (AgentStats::HostName, request.guest_get_host_name.is_some()),
        (AgentStats::Timezone, request.guest_get_timezone.is_some()),
        (AgentStats::NetworkRoute, request.guest_network_get_route.is_some()),
        (AgentStats::NetworkInterfaces, request.guest_network_get_interfaces.is_some()),
        (AgentStats::MemoryBlocks, request.guest_get_memory_blocks.is_some()),
    ]
    .into_iter()
    .filter_map(|(question, wanted)| wanted.then_some(question))
    .collect()
}
