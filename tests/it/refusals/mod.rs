//! What libvirt and QEMU refuse is refused here first, by field; and what is refused here is refused by them.
//!
//! Values that the API's fields take, and some that they do not, are put one at a time, and in pairs of one kind of
//! device, to a real libvirt and, where the define passes, to a start of QEMU in emulation. `REFUSALS=all`
//! (`make refusals`) defines and starts every case, each within the bounds of `try.sh`, and tells what became of them; else
//! a third is defined, and of what passes although it is refused here, a tenth is started. `ONLY=TEXT|TEXT` takes the cases
//! whose changes contain one of the texts.

mod cases;
mod excuses;
mod libvirt;
mod paths;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support;
use cases::Case;
use excuses::{Excuse, OF_THE_API, OF_THE_MACHINE};
use libvirt::{Outcome, Tried};
use virt_launcher::convert::{self, Defines, HostFacts};
use virt_launcher::vmi;

/// Cases between two lines about how far it is.
const SOME: usize = 100;
/// Most vCPUs of a VM that is started: QEMU makes a thread for each in emulation, and those of a thousand need minutes and
/// more memory than most machines have.
const MOST_VCPUS: u32 = 288;

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn refusals_of_libvirt_and_qemu_come_by_field_first() {
    let image = support::pod::image();
    let all = std::env::var("REFUSALS").is_ok_and(|form| form == "all");
    let facts: HostFacts = serde_json::from_value(cases::facts()).unwrap();
    let some = |(index, case)| (all || index % 3 == 0).then_some(case);
    let cases: Vec<Case> = cases::all().into_iter().enumerate().filter_map(some).collect();
    let mut documents = Vec::new();
    let mut ours = Vec::new();
    for case in &cases {
        let vmi = vmi::parse(case.vmi.to_string().as_bytes()).unwrap();
        ours.push(convert::problems(&vmi, &facts));
        documents.push(Defines::new(&vmi, &facts).ok().map(|defines| defines.xml()));
    }
    let may_start =
        |document: &Option<String>| document.as_deref().and_then(vcpus).is_some_and(|count| count <= MOST_VCPUS);
    let is_wanted = |at: usize, ours: &[_]| all || (!ours.is_empty() && at.is_multiple_of(10));
    let starts: Vec<bool> = documents
        .iter()
        .zip(&ours)
        .enumerate()
        .map(|(at, (document, ours))| is_wanted(at, ours) && may_start(document))
        .collect();
    let (begun, count) = (Instant::now(), AtomicUsize::new(0));
    let total = documents.iter().flatten().count();
    let theirs = libvirt::try_all(&image, &documents, &starts, &|index, tried| {
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        if let Outcome::Lost(why) = &tried.outcome {
            println!("{}: {why}", cases[index].label);
        }
        if count.is_multiple_of(SOME) {
            println!("{count} of {total} after {} s", begun.elapsed().as_secs());
        }
    });
    let mut wrong = Vec::new();
    let mut used: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut excused = |excuses: &'static [Excuse], case: &Case, said: &str| {
        let excuse = excuses.iter().find(|excuse| excuse.covers(case, said));
        excuse.inspect(|excuse| used.entry(excuse.says).or_insert((0, excuse.why)).0 += 1)
    };
    for ((case, ours), Tried { outcome, .. }) in cases.iter().zip(&ours).zip(&theirs) {
        let said = ours.iter().map(|error| error.with_path()).collect::<Vec<_>>().join("; ");
        match outcome {
            Outcome::NotDefined(why) | Outcome::NotStarted(why) | Outcome::Lost(why) if ours.is_empty() => {
                let vmi = vmi::parse(case.vmi.to_string().as_bytes()).unwrap();
                match excused(OF_THE_MACHINE, case, why) {
                    None => wrong.push(format!("{}: not refused here; libvirt: {why}", case.label)),
                    // The launcher passes it on behind the field.
                    Some(excuse) if excuse.is_named && convert::field_of(&vmi, why).is_none() => {
                        wrong.push(format!("{}: libvirt's answer is about no field: {why}", case.label));
                    }
                    Some(_) => {}
                }
            }
            Outcome::Started if !ours.is_empty() && excused(OF_THE_API, case, &said).is_none() => {
                wrong.push(format!("{}: runs, but is refused here: {said}", case.label));
            }
            _ => {}
        }
        let about = |path: &str| case.paths.iter().any(|own| own.starts_with(path) || path.starts_with(own.as_str()));
        // One of two devices that contradict each other is refused, and the other one named.
        let names_other = || case.paths.iter().any(|own| said.contains(&format!("{own}.")));
        if !ours.is_empty() && !ours.iter().any(|error| error.path().is_some_and(about)) && !names_other() {
            wrong.push(format!("{}: refused for another field: {said}", case.label));
        }
    }
    tell(&cases, &theirs, ours.iter().filter(|ours| !ours.is_empty()).count(), &used);
    println!("in {} s", begun.elapsed().as_secs());
    if all && std::env::var_os("ONLY").is_none() {
        let excuses = OF_THE_API.iter().chain(OF_THE_MACHINE);
        wrong.extend(
            excuses
                .filter(|excuse| !used.contains_key(excuse.says))
                .map(|excuse| format!("an excuse that no case needs: {} ({})", excuse.says, excuse.of)),
        );
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What became of the cases, those that took longest, and what had to be excused how often.
fn tell(cases: &[Case], theirs: &[Tried], refused_here: usize, used: &BTreeMap<&str, (usize, &str)>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tried in theirs {
        let what = match tried.outcome {
            Outcome::Unconverted => "not converted",
            Outcome::Defined => "defined, not started",
            Outcome::Started => "started",
            Outcome::NotDefined(_) => "refused by libvirt's define",
            Outcome::NotStarted(_) => "refused by the start",
            Outcome::Lost(_) => "given up",
        };
        *counts.entry(what).or_default() += 1;
    }
    println!("{} cases, {refused_here} of them refused here: {counts:?}", cases.len());
    let mut slowest: Vec<(&Tried, &Case)> = theirs.iter().zip(cases).collect();
    slowest.sort_by_key(|(tried, _)| std::cmp::Reverse(tried.took));
    for (tried, case) in slowest.into_iter().take(10) {
        println!("{:>8} ms  {}  {:?}", tried.took.as_millis(), case.label, tried.outcome);
    }
    for (said, (count, why)) in used {
        println!("{count:>4} x {said:?}: {why}");
    }
}

/// vCPUs of a document.
fn vcpus(document: &str) -> Option<u32> {
    let (_, rest) = document.split_once("<vcpu placement=\"static\">")?;
    rest.split_once('<')?.0.parse().ok()
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn wide_suite_cases_are_refused_where_libvirt_refused_them_and_nowhere_else() {
    /// Cases that were only defined: QEMU does not start them, or the values stand for any ("typeValue").
    const NEVER_STARTED: &[&str] =
        &["apitesting", "kernelboot-args-only", "kernelboot-initrd-only", "escape-control-characters"];
    /// Refused for the machine that they were recorded on, or not any more.
    const OF_ANOTHER_MACHINE: &[&str] = &["grace-", "disk-cdrom-usb"];
    let folder = support::wide_suite("domain-xml");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut wrong = Vec::new();
    for name in names.filter_map(|name| Some(name.strip_suffix(".vmi.json")?.to_owned())) {
        let read = |suffix: &str| std::fs::read_to_string(folder.join(format!("{name}.{suffix}"))).ok();
        let vmi = vmi::parse(read("vmi.json").unwrap().as_bytes()).unwrap();
        let facts: HostFacts = serde_json::from_str(&read("ctx.json").unwrap()).unwrap();
        let problems = convert::problems(&vmi, &facts);
        let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let fails = read("err").is_some() || read("rejected").is_some();
        match (fails, convert::told(&problems)) {
            (false, Some(said)) if !is(NEVER_STARTED) => wrong.push(format!("{name}: refused: {said}")),
            (true, None) if !is(OF_ANOTHER_MACHINE) => wrong.push(format!("{name}: not refused")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
