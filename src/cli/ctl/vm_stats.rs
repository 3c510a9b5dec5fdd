//! `ctl vm-stats`.

use serde_json::{Map, Value, json};

use super::call::{Caller, check};
use super::{CtlError, output};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::*;

/// Which parts; all of them if none is named.
#[derive(Debug, clap::Args)]
pub(super) struct Parts {
    /// `domain-stats`, `dirty-rate`, or a command of the guest's agent such as `guest-get-load`.
    #[arg(value_name = "PART", value_parser = clap::builder::PossibleValuesParser::new(PARTS))]
    parts: Vec<String>,
}

const PARTS: [&str; 16] = [
    "domain-stats",
    "dirty-rate",
    "guest-get-load",
    "guest-get-cpustats",
    "guest-get-diskstats",
    "guest-get-time",
    "guest-get-vcpus",
    "guest-get-memory-block-info",
    "guest-get-users",
    "guest-get-osinfo",
    "guest-get-disks",
    "guest-get-host-name",
    "guest-get-timezone",
    "guest-network-get-route",
    "guest-network-get-interfaces",
    "guest-get-memory-blocks",
];

impl Caller {
    pub(super) async fn vm_stats(&self, parts: Parts) -> Result<(), CtlError> {
        let wants = |part: &str| parts.parts.is_empty() || parts.parts.iter().any(|wanted| wanted == part);
        let request = VmStatsRequest {
            domain_stats: wants("domain-stats").then(DomainStatsRequest::default),
            dirty_rate: wants("dirty-rate").then(DirtyRateRequest::default),
            guest_get_load: wants("guest-get-load").then(AgentLoadRequest::default),
            guest_get_cpu_stats: wants("guest-get-cpustats").then(AgentCpuStatsRequest::default),
            guest_get_disk_stats: wants("guest-get-diskstats").then(AgentDiskStatsRequest::default),
            guest_get_time: wants("guest-get-time").then(AgentTimeRequest::default),
            guest_get_vcpus: wants("guest-get-vcpus").then(AgentVcpusRequest::default),
            guest_get_memory_block_info: wants("guest-get-memory-block-info")
                .then(AgentMemoryBlockInfoRequest::default),
            guest_get_users: wants("guest-get-users").then(AgentUsersRequest::default),
            guest_get_os_info: wants("guest-get-osinfo").then(AgentOsInfoRequest::default),
            guest_get_disks: wants("guest-get-disks").then(AgentDisksRequest::default),
            guest_get_host_name: wants("guest-get-host-name").then(AgentHostNameRequest::default),
            guest_get_timezone: wants("guest-get-timezone").then(AgentTimezoneRequest::default),
            guest_network_get_route: wants("guest-network-get-route").then(AgentNetworkRouteRequest::default),
            guest_network_get_interfaces: wants("guest-network-get-interfaces")
                .then(AgentNetworkInterfacesRequest::default),
            guest_get_memory_blocks: wants("guest-get-memory-blocks").then(AgentMemoryBlocksRequest::default),
        };
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::SHORT, client.get_vm_stats(request)).await?;
        // A reply of which a part failed is shown all the same: virt-handler would drop it.
        let document = document(&reply);
        output::print(self.format, &document, || {
            let rows = PARTS.iter().filter_map(|part| Some((*part, document.get(*part)?.to_string())));
            let version = document.get("guest-agent-version").and_then(Value::as_str).unwrap_or_default();
            std::iter::once(("guest-agent-version", version.to_owned())).chain(rows).collect()
        })?;
        check(reply.response.as_ref())
    }
}

/// Every part that there is under the name by which it was asked for; a part that failed is its message.
fn document(reply: &VmStatsResponse) -> Value {
    let mut document = Map::new();
    if let Some(stats) = &reply.domain_stats {
        let failed = stats.response.as_ref().filter(|reply| !reply.success);
        document.insert("domain-stats".to_owned(), failed.map_or_else(|| parsed(&stats.domain_stats), failure));
    }
    if let Some(rate) = &reply.dirty_rate_stats {
        let failed = rate.response.as_ref().filter(|reply| !reply.success);
        document.insert("dirty-rate".to_owned(), failed.map_or_else(|| json!(rate.dirty_rate_mbs), failure));
    }
    if let Some(version) = &reply.guest_agent_version {
        document.insert("guest-agent-version".to_owned(), json!(version.message));
    }
    let answers = [
        ("guest-get-load", &reply.guest_get_load),
        ("guest-get-cpustats", &reply.guest_get_cpu_stats),
        ("guest-get-diskstats", &reply.guest_get_disk_stats),
        ("guest-get-time", &reply.guest_get_time),
        ("guest-get-vcpus", &reply.guest_get_vcpus),
        ("guest-get-memory-block-info", &reply.guest_get_memory_block_info),
        ("guest-get-users", &reply.guest_get_users),
        ("guest-get-osinfo", &reply.guest_get_os_info),
        ("guest-get-disks", &reply.guest_get_disks),
        ("guest-get-host-name", &reply.guest_get_host_name),
        ("guest-get-timezone", &reply.guest_get_timezone),
        ("guest-network-get-route", &reply.guest_network_get_route),
        ("guest-network-get-interfaces", &reply.guest_network_get_interfaces),
        ("guest-get-memory-blocks", &reply.guest_get_memory_blocks),
    ];
    for (command, answer) in answers {
        if let Some(answer) = answer {
            let value = if answer.success { parsed(&answer.message) } else { failure(answer) };
            document.insert(command.to_owned(), value);
        }
    }
    Value::Object(document)
}

fn failure(reply: &Response) -> Value {
    json!({ "failed": reply.message })
}

/// JSON if it is JSON: the agent may write what it likes.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}
