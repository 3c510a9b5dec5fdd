//! The calls of one migration in virt-handler's order (contract/migration.md 14): prepare the target, start, watch, finish.

use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::transport::Channel;

use super::bridge::{Bridge, Target};
use super::line::Line;
use super::pod::Pod;
use super::progress::Figures;
use super::{remote, vmi};
use crate::cli::ctl::call::{Caller, check, encode, no_domain};
use crate::cli::ctl::error::CtlError;
use crate::cli::ctl::{events, migration, output, vmi_file};
use crate::cli::vm_file::VmFile;
use crate::cmd::client::{self, deadline};
use crate::launcher::migration::options::MigrationOptions;
use crate::proto::cmd_v1::cmd_client::CmdClient;
use crate::proto::cmd_v1::{EmptyRequest, MigrationRequest, VirtualMachineOptions, VmiRequest};

/// Between two looks at the source.
const LOOK: Duration = Duration::from_millis(250);
/// Between two lines of progress where no terminal redraws one.
const LINE: Duration = Duration::from_secs(1);
/// How long a launcher may be away: its monitor starts the next one.
const AWAY: Duration = Duration::from_secs(60);

/// How the migration is to be made.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// JSON of virt-handler's options with its names, such as {"AllowPostCopy": true}; the flags below go before it.
    #[arg(long, value_name = "FILE")]
    options: Option<PathBuf>,
    /// Most bytes per second, such as 64Mi; 0: as fast as it goes.
    #[arg(long, value_name = "QUANTITY")]
    bandwidth: Option<String>,
    /// The longest time that the guest may stand still, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS")]
    max_downtime: Option<u64>,
    /// Slow a guest down that writes memory faster than it can be sent.
    #[arg(long)]
    auto_converge: bool,
    /// Let such a guest go on at the target before all its memory is there.
    #[arg(long)]
    post_copy: bool,
}

impl Settings {
    fn json(&self) -> Result<Vec<u8>, CtlError> {
        let mut options = migration::default_options();
        if let Some(path) = &self.options {
            let wrong = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
            let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let given: serde_json::Map<String, Value> =
                serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            options.extend(given);
        }
        if let Some(bandwidth) = &self.bandwidth {
            options.insert("Bandwidth".to_owned(), json!(bandwidth));
        }
        if let Some(downtime) = self.max_downtime {
            options.insert("MaxDowntimeMs".to_owned(), json!(downtime));
        }
        for (name, is_set) in [("AllowAutoConverge", self.auto_converge), ("AllowPostCopy", self.post_copy)] {
            if is_set {
                options.insert(name.to_owned(), json!(true));
            }
        }
        if self.post_copy {
            options.insert("AllowWorkloadDisruption".to_owned(), json!(true));
        }
        let json = Value::Object(options).to_string().into_bytes();
        MigrationOptions::parse(&json)
            .map_err(|error| CtlError::Usage(format!("options of the migration: {error}")))?;
        Ok(json)
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// One line that is written again and again.
    Redraws,
    /// One line after the other.
    Lines,
}

/// What the user asked for.
pub(super) struct Order<'a> {
    pub(super) caller: &'a Caller,
    pub(super) file: &'a VmFile,
    pub(super) settings: &'a Settings,
    pub(super) shows: Option<Shows>,
}

/// SIGINT or SIGTERM, from the first poll on.
struct Interrupt {
    signals: Pin<Box<dyn Future<Output = Result<(), CtlError>>>>,
    seen: bool,
}

impl Interrupt {
    fn new() -> Self {
        Interrupt { signals: Box::pin(events::told_to_end()), seen: false }
    }

    /// Completes once, at the first signal.
    async fn first(&mut self) {
        if self.seen {
            return std::future::pending().await;
        }
        if let Err(error) = self.signals.as_mut().await {
            eprintln!("{error}");
        }
        self.seen = true;
    }
}

/// Both launchers, and the document they are shown.
struct Sides<'a> {
    order: &'a Order<'a>,
    pod: Pod,
    target: Arc<Target>,
    receiver: CmdClient<Channel>,
    document: Value,
    vmi: String,
    uid: String,
    copies_disks: bool,
    options: Vec<u8>,
}

/// The record of a migration in a launcher's document (contract/migration.md 1.4).
#[derive(Debug, Default, PartialEq)]
struct Record {
    ended: bool,
    failure: Option<String>,
    abort: String,
}

impl Record {
    /// The record of the migration `uid`, or of whichever there is for `None`.
    fn of(domain: &Value, uid: Option<&str>) -> Self {
        let Some(record) = domain.pointer("/Spec/Metadata/KubeVirt/Migration") else { return Record::default() };
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if uid.is_some_and(|uid| text("UID") != uid) {
            return Record::default();
        }
        let ended = record.get("EndTimestamp").is_some_and(|end| !end.is_null());
        let failed = ended && record.get("Failed") == Some(&Value::Bool(true));
        Record { ended, failure: failed.then(|| text("FailureReason")), abort: text("AbortStatus") }
    }
}

impl Order<'_> {
    /// Moves the VM. Returns when it runs at the target and the source's launcher is told to go, or with why it stays.
    pub(super) async fn carry_out(self, target: Target) -> Result<(), CtlError> {
        let begun = Instant::now();
        let mut interrupt = Interrupt::new();
        let mut sides = tokio::select! {
            sides = self.sides(target) => sides?,
            () = interrupt.first() => return Err(CtlError::Refused("interrupted: nothing has begun".to_owned())),
        };
        let outcome = sides.migrate(&mut interrupt).await;
        if let Err(error) = outcome {
            sides.give_up(&error).await;
            return Err(error);
        }
        sides.finish().await.map_err(|error| CtlError::Refused(format!("the VM runs at the target, but: {error}")))?;
        let seconds = begun.elapsed().as_secs_f64();
        let document = json!({ "migrationUid": sides.uid, "seconds": seconds, "copiedDisks": sides.copies_disks });
        output::print(self.caller.format, &document, || {
            vec![("", format!("the VM runs at the target, moved in {seconds:.1} s"))]
        })
    }

    /// Looks at both sides and makes the document. Nothing is changed.
    async fn sides(&self, target: Target) -> Result<Sides<'_>, CtlError> {
        let options = self.settings.json()?;
        let pod = Pod::of(&self.caller.socket).await?;
        let mut source = self.caller.connect().await?;
        let domain = self.caller.domain(&mut source).await?.ok_or_else(no_domain)?;
        let paused = vmi::is_paused(&domain).map_err(CtlError::Refused)?;
        let vmi_uid = vmi_file::uid(&domain).to_owned();
        let manifest = vmi_file::read(self.file, Some(&vmi_uid))?;
        let (copies_disks, warnings) =
            vmi::judge(&manifest.vmi).map_err(|why| CtlError::Refused(manifest.located_if_field(&why)))?;
        for warning in warnings {
            eprintln!("{}", manifest.located_if_field(&warning));
        }
        let mut sizes = std::collections::BTreeMap::new();
        for (volume, path) in vmi::generated_disks(&manifest.vmi, &domain) {
            let size = pod
                .size(&path)
                .map_err(|error| CtlError::Refused(format!("the size of the source's {}: {error}", path.display())))?;
            sizes.insert(volume, size);
        }
        let (receiver, target_pod, target_user) = self.receiver(&target, &vmi_uid).await?;
        let uid = uuid::Uuid::new_v4().to_string();
        let facts = vmi::Facts { uid: uid.clone(), target_pod, target_user, copies_disks, sizes, paused };
        let document = vmi::document(manifest.value, &domain, &facts);
        let target = Arc::new(target);
        Ok(Sides { order: self, pod, target, receiver, document, vmi: vmi_uid, uid, copies_disks, options })
    }

    /// The target's launcher: its client, its pod's name and its user.
    async fn receiver(&self, target: &Target, vmi: &str) -> Result<(CmdClient<Channel>, String, u32), CtlError> {
        match target {
            Target::Here(pod) => {
                let client = client::connect(&pod.socket, deadline::SHORT).await?;
                Ok((client, pod.name.clone(), pod.user))
            }
            Target::There(far) => {
                let (stream, answer) = far
                    .dial(Line::Launcher, vmi)
                    .await
                    .map_err(|error| CtlError::Unreachable(format!("the target's side: {error}")))?;
                let client = client::connect_over(stream, &remote::named(far.address()), deadline::SHORT).await?;
                Ok((client, answer.pod, answer.user))
            }
        }
    }
}

impl Sides<'_> {
    fn request(&self) -> VmiRequest {
        VmiRequest { vmi: Some(encode(&self.document)), options: Some(VirtualMachineOptions::default()) }
    }

    /// From the first call to the end of the record at the source.
    async fn migrate(&mut self, interrupt: &mut Interrupt) -> Result<(), CtlError> {
        let caller = self.order.caller;
        let mut receiver = self.receiver.clone();
        let request = self.request();
        let prepared = tokio::select! {
            prepared = caller.answer(deadline::LONG, receiver.sync_migration_target(request)) => prepared?,
            () = interrupt.first() => return Err(CtlError::Refused("interrupted: nothing was sent".to_owned())),
        };
        check(Some(&prepared)).map_err(|error| CtlError::Refused(format!("the target cannot be prepared: {error}")))?;
        let lines = Line::of_libvirt(self.copies_disks);
        let _bridge = Bridge::new(&self.pod, &self.target, &self.vmi, lines)
            .map_err(|error| CtlError::Refused(format!("cannot listen in the source's pod: {error}")))?;
        let request = MigrationRequest { vmi: Some(encode(&self.document)), options: self.options.clone() };
        let mut source = caller.connect().await?;
        let started = caller.answer(deadline::LONG, source.migrate_virtual_machine(request)).await?;
        check(Some(&started))?;
        self.watch(interrupt).await
    }

    async fn watch(&self, interrupt: &mut Interrupt) -> Result<(), CtlError> {
        let mut away: Option<Instant> = None;
        let mut shown = Shown { way: self.order.shows, last: None };
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = interrupt.first() => shown.say("interrupted: the migration is being aborted"),
            }
            match self.look(interrupt.seen, &mut shown).await {
                Ok(Record { ended: true, failure: None, .. }) => break,
                Ok(Record { ended: true, failure: Some(why), .. }) => {
                    shown.end();
                    return Err(CtlError::Refused(format!("the VM stays at the source: {why}")));
                }
                Ok(Record { ended: false, .. }) => away = None,
                Err(error) => {
                    if away.get_or_insert_with(Instant::now).elapsed() > AWAY {
                        let seconds = AWAY.as_secs();
                        return Err(CtlError::Unreachable(format!("the source was away for {seconds} s: {error}")));
                    }
                }
            }
        }
        shown.end();
        Ok(())
    }

    /// Reads the record, aborts if that is wanted, shows the figures.
    async fn look(&self, is_unwanted: bool, shown: &mut Shown) -> Result<Record, CtlError> {
        let caller = self.order.caller;
        let mut source = caller.connect().await?;
        let domain = caller.domain(&mut source).await?.ok_or_else(no_domain)?;
        let record = Record::of(&domain, Some(&self.uid));
        if record.ended {
            return Ok(record);
        }
        if is_unwanted && matches!(record.abort.as_str(), "" | "Failed") {
            let request = VmiRequest { vmi: Some(encode(&self.document)), options: None };
            let reply = caller.answer(deadline::LONG, source.cancel_virtual_machine_migration(request)).await?;
            check(Some(&reply))?;
        }
        if shown.is_due() {
            let reply = caller.answer(deadline::SHORT, source.get_domain_stats(EmptyRequest {})).await?;
            let stats: Value = serde_json::from_str(&reply.domain_stats).unwrap_or_default();
            if let Some(figures) = Figures::of(&stats) {
                shown.figures(&figures);
            }
        }
        Ok(record)
    }

    /// What virt-handler does on both nodes after a success.
    async fn finish(&mut self) -> Result<(), CtlError> {
        let caller = self.order.caller;
        self.wait("the target has not confirmed the guest's arrival", Side::Target, |domain| {
            let status = domain.pointer("/Status/Status").and_then(Value::as_str);
            Record::of(domain, None).ended && matches!(status, Some("Running" | "Paused"))
        })
        .await?;
        let mut receiver = self.receiver.clone();
        let finalized = caller.answer(deadline::LONG, receiver.finalize_virtual_machine_migration(self.request()));
        check(Some(&finalized.await?))?;
        let document = vmi::completed(self.document.clone());
        let request = VmiRequest { vmi: Some(encode(&document)), options: Some(VirtualMachineOptions::default()) };
        let synchronized = caller.answer(deadline::LONG, receiver.sync_virtual_machine(request));
        check(Some(&synchronized.await?))?;
        self.wait("the source's hypervisor has not ended", Side::Source, |domain| {
            domain.pointer("/Status/Status").and_then(Value::as_str) == Some("Shutoff")
        })
        .await?;
        let mut source = caller.connect().await?;
        let request = VmiRequest { vmi: Some(encode(&self.document)), options: None };
        check(Some(&caller.answer(deadline::LONG, source.delete_virtual_machine(request)).await?))?;
        self.tell(None).await;
        Ok(())
    }

    /// Frees the target. The source needs nothing: the guest runs there.
    async fn give_up(&mut self, why: &CtlError) {
        let request = VmiRequest { vmi: Some(encode(&self.document)), options: None };
        let mut receiver = self.receiver.clone();
        let freed = self.order.caller.answer(deadline::SHORT, receiver.signal_target_pod_cleanup(request));
        // A target that has ended by itself does not answer.
        let _ = freed.await;
        self.tell(Some(why.to_string())).await;
    }

    async fn tell(&self, failure: Option<String>) {
        if let Target::There(far) = &*self.target
            && let Err(error) = far.end(failure).await
        {
            eprintln!("the target's side does not know of the end: {error}");
        }
    }

    async fn wait(&self, what: &str, side: Side, is_so: impl Fn(&Value) -> bool) -> Result<(), CtlError> {
        let begun = Instant::now();
        loop {
            let domain = match side {
                Side::Source => match self.order.caller.connect().await {
                    Ok(mut source) => self.order.caller.domain(&mut source).await,
                    Err(error) => Err(error),
                },
                Side::Target => self.order.caller.domain(&mut self.receiver.clone()).await,
            };
            let seen = match domain {
                Ok(Some(domain)) if is_so(&domain) => return Ok(()),
                Ok(domain) => {
                    let status = domain.as_ref().and_then(|domain| domain.pointer("/Status"));
                    status.map_or("no domain".to_owned(), Value::to_string)
                }
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > AWAY {
                return Err(CtlError::Refused(format!("{what} within {} s: {seen}", AWAY.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Target,
}

/// What the user sees meanwhile.
struct Shown {
    way: Option<Shows>,
    last: Option<Instant>,
}

impl Shown {
    fn is_due(&self) -> bool {
        match self.way {
            None => false,
            Some(Shows::Redraws) => true,
            Some(Shows::Lines) => self.last.is_none_or(|last| last.elapsed() >= LINE),
        }
    }

    fn figures(&mut self, figures: &Figures) {
        self.last = Some(Instant::now());
        let mut out = std::io::stderr().lock();
        // A terminal that has gone does not stop a migration.
        let _ = match self.way {
            Some(Shows::Redraws) => write!(out, "\r\x1b[K{}", figures.line()).and_then(|()| out.flush()),
            Some(Shows::Lines) | None => writeln!(out, "{}", figures.line()),
        };
    }

    fn say(&mut self, what: &str) {
        self.end();
        eprintln!("{what}");
    }

    /// Leaves the line that is redrawn.
    fn end(&mut self) {
        if self.way == Some(Shows::Redraws) && self.last.take().is_some() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { options: None, bandwidth: None, max_downtime: None, auto_converge: false, post_copy: false }
    }

    #[test]
    fn options_are_virt_handlers_with_the_flags_in_front() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("options.json");
        std::fs::write(&path, r#"{"Bandwidth":"1Mi","ProgressTimeout":7}"#).unwrap();
        let given = Settings {
            options: Some(path.clone()),
            bandwidth: Some("64Mi".into()),
            max_downtime: Some(50),
            post_copy: true,
            ..settings()
        };
        let options = MigrationOptions::parse(&given.json().unwrap()).unwrap();
        assert_eq!((options.bandwidth.value(), options.progress_timeout, options.max_downtime_ms), (64 << 20, 7, 50));
        assert!(options.allow_post_copy && options.allows_disruption() && !options.allow_auto_converge);
        assert_eq!(MigrationOptions::parse(&settings().json().unwrap()).unwrap().completion_timeout_per_gib, 150);
        let wrong = Settings { bandwidth: Some("lots".into()), ..settings() }.json().unwrap_err();
        assert!(matches!(&wrong, CtlError::Usage(why) if why.contains("Bandwidth: \"lots\"")), "{wrong}");
        std::fs::write(&path, "[]").unwrap();
        let wrong = Settings { options: Some(path), ..settings() }.json().unwrap_err();
        assert!(wrong.to_string().contains("options.json: "), "{wrong}");
    }

    #[test]
    fn record_is_that_of_the_migration() {
        let domain = |record: Value| json!({ "Spec": { "Metadata": { "KubeVirt": { "Migration": record } } } });
        let ended = json!({
            "UID": "m", "EndTimestamp": "2026-01-01T00:00:00Z", "Failed": true, "FailureReason": "cut", "AbortStatus": "Failed",
        });
        let expected = Record { ended: true, failure: Some("cut".into()), abort: "Failed".into() };
        assert_eq!(Record::of(&domain(ended.clone()), Some("m")), expected);
        assert_eq!(Record::of(&domain(ended.clone()), None), expected);
        assert_eq!(Record::of(&domain(ended), Some("other")), Record::default());
        assert_eq!(Record::of(&domain(json!(null)), None), Record::default());
        let running = json!({ "UID": "m", "EndTimestamp": null, "Failed": false });
        assert!(!Record::of(&domain(running), Some("m")).ended);
    }
}
