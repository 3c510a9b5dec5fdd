//! Commands that have the launcher measure something.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::call::{Caller, check};
use super::{CtlError, Target, output};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::{EmptyRequest, VmiRequest};

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

impl Caller {
    pub(super) async fn screenshot(&self, file: &Path, target: Target) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
        let reply = self.answer(deadline::SHORT, client.get_screenshot(request)).await?;
        check(reply.response.as_ref())?;
        if file == Path::new("-") {
            let written = std::io::stdout().write_all(&reply.data);
            return written.map_err(|error| CtlError::Refused(format!("stdout: {error}")));
        }
        std::fs::write(file, &reply.data).map_err(|error| CtlError::Usage(format!("{}: {error}", file.display())))?;
        let document = json!({ "mime": reply.mime, "bytes": reply.data.len(), "file": file });
        output::print(self.format, &document, || {
            vec![("", format!("{}: {}, {} bytes", file.display(), reply.mime, reply.data.len()))]
        })
    }

    pub(super) async fn sev_info(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = self.answer(deadline::SHORT, client.get_sev_info(EmptyRequest {})).await?;
        check(reply.response.as_ref())?;
        self.document(&reply.sev_info)
    }

    pub(super) async fn launch_measurement(&self, target: Target) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
        let reply = self.answer(deadline::SHORT, client.get_launch_measurement(request)).await?;
        check(reply.response.as_ref())?;
        self.document(&reply.launch_measurement)
    }

    /// Prints a JSON object of texts and numbers.
    fn document(&self, json: &[u8]) -> Result<(), CtlError> {
        let document: Value = serde_json::from_slice(json)
            .map_err(|error| CtlError::Refused(format!("the launcher's answer cannot be read: {error}")))?;
        output::print(self.format, &document, || vec![("", document.to_string())])
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
