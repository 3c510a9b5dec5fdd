//! What libvirt and QEMU refuse is refused here first, by field; and what is refused here is refused by them.
//!
//! Values that the API's fields take, and some that they do not, are put one at a time, and in pairs of one kind of
//! device, to a real libvirt and, where the define passes, to a start of QEMU in emulation. `REFUSALS=all`
//! (`make refusals`) defines and starts every case, which takes some twenty minutes; else a third is defined, and of what
//! passes although it is refused here, a tenth is started.

mod cases;
mod libvirt;
mod paths;

use crate::support;
use libvirt::{Libvirt, Outcome};
use virt_launcher::convert::{self, Defines, HostFacts};
use virt_launcher::vmi;

/// What a libvirt or QEMU says of its machine, its build or its guest's files, not of the VMI.
const OF_THE_MACHINE: &[&str] = &[
    "Unknown CPU model",
    "unknown CPU feature",
    "incompatible with host CPU",
    "not supported by hypervisor",
    "launch security is not supported",
    "'launchSecurity': 'tdx'",
    "does not support machine type",
    "does not support video model",
    "No such file",
    "specified dev doesn't exist",
    "cannot set up guest memory",
    "hugetlbfs",
    "requires KVM",
    "Failed to connect to socket",
    "unable to connect",
    "above 2^32",
    "phys-bits too low",
    "Address space limit",
];

/// What this launcher says of values that libvirt and QEMU take for something else than what was meant, or that its own
/// parts cannot serve; the API refuses most of them.
const OF_THE_API: &[&str] = &[
    "it can be one of them",
    "is none of shared, auto, supplementalPool",
    "is none of Reboot, Terminate",
    "is none of Paused",
    "is none of absent, down, up",
    "on virtio",
    "on sata",
    "a page of",
    "quantities must match",
    "0 threads are no pool",
    "is not a UID",
    "bytes are more than the 253",
    "one boots by one",
    "a machine boots by one",
    "is not a name",
    "0 vCPUs",
    "is the acpiIndex of",
    "is missing",
    "without a slash",
    "is not a multiple",
];

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn what_libvirt_and_qemu_refuse_is_refused_by_field_first_and_nothing_else() {
    let image = support::pod::image();
    let all = std::env::var("REFUSALS").is_ok_and(|form| form == "all");
    let facts: HostFacts = serde_json::from_value(cases::facts()).unwrap();
    let cases: Vec<_> = cases::all().into_iter().enumerate().filter(|(index, _)| all || index % 3 == 0).collect();
    let mut documents = Vec::new();
    let mut ours = Vec::new();
    for (_, case) in &cases {
        let vmi = vmi::parse(case.vmi.to_string().as_bytes()).unwrap();
        ours.push(convert::problems(&vmi, &facts));
        documents.push(Defines::new(&vmi, &facts).ok().map(|defines| defines.xml()));
    }
    let starts: Vec<bool> =
        ours.iter().enumerate().map(|(at, ours)| all || (!ours.is_empty() && at % 10 == 0)).collect();
    let theirs = Libvirt::start(&image).try_all(&documents, &starts);
    let mut wrong = Vec::new();
    for ((((_, case), ours), theirs), started) in cases.iter().zip(&ours).zip(&theirs).zip(&starts) {
        let said: Vec<String> = ours.iter().map(|error| error.with_path()).collect();
        let says = |of: &[&str], text: &str| of.iter().any(|part| text.contains(part));
        match theirs {
            Outcome::Unconverted => {}
            Outcome::NotDefined(why) | Outcome::NotStarted(why) if ours.is_empty() && !says(OF_THE_MACHINE, why) => {
                wrong.push(format!("{}: not refused here; libvirt: {why}", case.label));
            }
            Outcome::Taken if *started && !ours.is_empty() && !said.iter().any(|said| says(OF_THE_API, said)) => {
                wrong.push(format!("{}: runs, but is refused here: {}", case.label, said.join("; ")));
            }
            _ => {}
        }
        let about = |path: &str| case.paths.iter().any(|own| own.starts_with(path) || path.starts_with(own.as_str()));
        if !ours.is_empty() && !ours.iter().any(|error| error.path().is_some_and(about)) {
            wrong.push(format!("{}: refused for another field: {}", case.label, said.join("; ")));
        }
    }
    println!("{} cases, {} started", cases.len(), starts.iter().filter(|start| **start).count());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
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
