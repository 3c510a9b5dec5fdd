//! Commands that have the launcher measure something.

use serde_json::{Value, json};

use super::call::{Caller, check};
use super::{CtlError, output};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::EmptyRequest;

impl Caller {
    pub(super) async fn stats(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::SHORT, client.get_domain_stats(EmptyRequest {})).await?;
        check(reply.response.as_ref())?;
        let stats: Value = serde_json::from_str(&reply.domain_stats)
            .map_err(|error| CtlError::Refused(format!("the launcher's statistics cannot be read: {error}")))?;
        output::print(self.format, &stats, || table(&stats))
    }

    pub(super) async fn dirty_rate(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::LONG, client.get_domain_dirty_rate_stats(EmptyRequest {})).await?;
        check(reply.response.as_ref())?;
        let rate = reply.dirty_rate_mbs;
        output::print(self.format, &json!({ "dirtyRateMbs": rate }), || vec![("", format!("{rate} MiB/s"))])
    }
}

/// The figures that a person looks for first; `-o json` has them all.
fn table(stats: &Value) -> Vec<(&'static str, String)> {
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let each = |list: &str, line: fn(&Value) -> String| {
        let entries = stats.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(line).collect::<Vec<_>>().join(", ")
    };
    let megabytes = |kib: u64| format!("{} MiB", kib / 1024);
    vec![
        ("NAME", stats.get("Name").and_then(Value::as_str).unwrap_or_default().to_owned()),
        ("CPU TIME", format!("{:.1} s", std::time::Duration::from_nanos(number("/Cpu/Time")).as_secs_f64())),
        ("MEMORY", megabytes(number("/Memory/Total"))),
        ("RESIDENT", megabytes(number("/Memory/RSS"))),
        ("VCPUS", each("Vcpu", |vcpu| traffic(vcpu, "State", &[]))),
        ("DISKS", each("Block", |disk| traffic(disk, "Name", &[("RdBytes", "read"), ("WrBytes", "written")]))),
        ("NETS", each("Net", |net| traffic(net, "Name", &[("RxBytes", "received"), ("TxBytes", "sent")]))),
    ]
}

/// One entry of a list: what it is called and its counters.
fn traffic(entry: &Value, name: &str, counters: &[(&str, &str)]) -> String {
    let name = match entry.get(name) {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Number(state)) => match state.as_u64() {
            Some(1) => "running".to_owned(),
            Some(2) => "blocked".to_owned(),
            Some(_) | None => "offline".to_owned(),
        },
        Some(_) | None => String::new(),
    };
    let counted = counters.iter().map(|(key, what)| {
        let bytes = entry.get(*key).and_then(Value::as_u64).unwrap_or_default();
        format!(" {bytes} B {what}")
    });
    std::iter::once(name).chain(counted).collect()
}
