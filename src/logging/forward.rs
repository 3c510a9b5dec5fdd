//! Lines of libvirt and of the hypervisor, re-emitted under this process's component (contract/lifecycle.md 5.2, 5.3).

use std::sync::OnceLock;

use super::record::{Level, Record};

/// What `component` says in forwarded lines; set by `init`.
static COMPONENT: OnceLock<&'static str> = OnceLock::new();

pub(super) fn set_component(component: &'static str) {
    // The first call wins, as in `init`.
    let _ = COMPONENT.set(component);
}

/// The record of a line that another program said. No verbosity applies. `timestamp` is already in the log's form; without
/// one the present time is taken. `pos` and `thread` are left out if they are unknown.
pub fn forwarded(
    subcomponent: &str,
    level: Level,
    message: &str,
    pos: Option<&str>,
    thread: Option<&str>,
    timestamp: Option<&str>,
) -> Record<'static> {
    let component = COMPONENT.get().copied().unwrap_or("virt-launcher");
    let mut record = Record::new(component, level, message).field("subcomponent", subcomponent);
    for (key, value) in [("pos", pos), ("thread", thread), ("timestamp", timestamp)] {
        if let Some(value) = value {
            record = record.field(key, value);
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept() {
        let time = "2026-08-22T10:34:54.123000Z";
        let line = forwarded("libvirt", Level::Error, "m", Some("virfile.c:12"), Some("7"), Some(time)).line();
        assert_eq!(
            line,
            "{\"component\":\"virt-launcher\",\"level\":\"error\",\"msg\":\"m\",\"pos\":\"virfile.c:12\",\
             \"subcomponent\":\"libvirt\",\"thread\":\"7\",\"timestamp\":\"2026-08-22T10:34:54.123000Z\"}\n"
        );
        let line = forwarded("qemu", Level::Info, "m", None, None, None).line();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        let keys: Vec<_> = read.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["component", "level", "msg", "subcomponent", "timestamp"]);
    }
}
