//! `tracing` events as log lines.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use super::record::{Level, Record, position};
use super::{DEFAULT_VERBOSITY, verbosity};

/// Writes this process's `tracing` events as lines of `component`. `flag` is `-v`; the environment overrides it. The
/// first call wins.
///
/// Besides `msg`, an event may carry `v` (the verbosity an info line needs, default 2), `reason` (an error), `level =
/// "fatal"` on an error, and any other field the log format knows (`name`, `namespace`, `kind`, `uid`, `volume`, …).
pub fn init(component: &'static str, flag: i32) {
    super::forward::set_component(component);
    let (verbosity, warning) = verbosity(flag);
    let subscriber = registry().with(Lines { component, verbosity, write: Record::write });
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(warning) = warning
    {
        tracing::warn!("{warning}");
    }
}

struct Lines {
    component: &'static str,
    verbosity: i32,
    write: fn(Record<'static>),
}

fn level(metadata: &Metadata<'_>) -> Option<Level> {
    match *metadata.level() {
        tracing::Level::ERROR => Some(Level::Error),
        tracing::Level::WARN => Some(Level::Warning),
        tracing::Level::INFO => Some(Level::Info),
        _ => None,
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries speak for themselves only when something is wrong.
        let ours = metadata.target().starts_with("virt_launcher");
        match level(metadata) {
            Some(Level::Error | Level::Warning | Level::Fatal) => true,
            Some(Level::Info) => ours,
            None => ours && *metadata.level() == tracing::Level::DEBUG && self.verbosity > 4,
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields { message: String::new(), verbosity: None, texts: Vec::new(), numbers: Vec::new() };
        event.record(&mut fields);
        let level = level(event.metadata()).unwrap_or(Level::Info);
        let needs = fields.verbosity.unwrap_or(i64::from(DEFAULT_VERBOSITY));
        if level == Level::Info && needs > i64::from(self.verbosity) {
            return;
        }
        let mut record = Record::new(self.component, level, fields.message);
        if let (Some(file), Some(line)) = (event.metadata().file(), event.metadata().line()) {
            record = record.field("pos", position(file, line));
        }
        for (key, value) in fields.texts {
            record = record.field(key, value);
        }
        for (key, value) in fields.numbers {
            record = record.number(key, value);
        }
        (self.write)(record);
    }
}

struct Fields {
    message: String,
    verbosity: Option<i64>,
    texts: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, i64)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.texts.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "v" => self.verbosity = Some(value),
            name => self.numbers.push((name, value)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tracing::{debug, error, info, warn};

    use super::*;

    thread_local!(static LINES: RefCell<Vec<serde_json::Value>> = const { RefCell::new(Vec::new()) });

    fn keep(record: Record<'static>) {
        LINES.with_borrow_mut(|lines| lines.push(serde_json::from_str(&record.line()).unwrap()));
    }

    /// The lines that `events` makes at a verbosity.
    fn lines(verbosity: i32, events: impl FnOnce()) -> Vec<serde_json::Value> {
        let subscriber = registry().with(Lines { component: "virt-launcher", verbosity, write: keep });
        tracing::subscriber::with_default(subscriber, events);
        LINES.take()
    }

    fn messages(verbosity: i32) -> Vec<String> {
        let lines = lines(verbosity, || {
            info!("ordinary");
            info!(v = 4, "talkative");
            debug!("debug");
            warn!(v = 9, "warning");
            error!("error");
            info!(target: "h2::server", "library");
            warn!(target: "h2::server", "library in trouble");
        });
        lines.iter().map(|line| line["msg"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn verbosity_concerns_info_lines_only() {
        assert_eq!(messages(1), ["warning", "error", "library in trouble"]);
        assert_eq!(messages(2), ["ordinary", "warning", "error", "library in trouble"]);
        assert_eq!(messages(4), ["ordinary", "talkative", "warning", "error", "library in trouble"]);
        assert_eq!(messages(9), ["ordinary", "talkative", "debug", "warning", "error", "library in trouble"]);
    }

    #[test]
    fn fields_become_keys() {
        let reason = std::io::Error::other("broken");
        let [line] = &lines(
            2,
            || error!(level = "fatal", %reason, code = -3, namespace = "", name = "vm", kind = "VirtualMachineInstance", "m {}", 1),
        )[..] else {
            panic!("one line")
        };
        assert!(line["pos"].as_str().unwrap().starts_with("layer.rs:"), "{line}");
        assert!(line["timestamp"].is_string());
        let expected = serde_json::json!({
            "code": -3, "component": "virt-launcher", "kind": "VirtualMachineInstance", "level": "fatal", "msg": "m 1",
            "name": "vm", "pos": line["pos"], "reason": "broken", "timestamp": line["timestamp"],
        });
        assert_eq!(line, &expected);
    }
}
