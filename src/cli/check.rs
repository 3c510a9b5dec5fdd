//! `virt-launcher check`: what a hypervisor makes of a VMI, without running it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use super::assume::{self, Assume};
use super::domain_xml::machine;
use super::live_migration::LiveMigration;
use super::{refusals, table, vm_file};
use crate::convert::HostFacts;
use crate::hypervisor::{Catalogue, DEFAULT_HYPERVISOR, Entry, Verdict, Version, features_of, host_architecture};
use crate::launcher::facts;
use crate::vmi::VirtualMachineInstance;
use crate::vmi::manifest::{Manifest, Options};

/// Says what a hypervisor refuses, drops or needs for the fields of a VMI, and whether the VM could be moved while it runs.
/// Exit code 0: the VMI can run; 1: it is refused; 2: it, or the catalogue, cannot be read.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher check")]
struct Arguments {
    /// VirtualMachineInstance, VirtualMachine or what makes some (ReplicaSet, Pool), JSON or YAML, also among other objects;
    /// `-` reads standard input.
    vmi: PathBuf,
    /// The virtual machine that is meant, where the file has several.
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// What a volume is whose content is not here, as for domain-xml.
    #[arg(long, value_name = "VOLUME=FORMAT:SIZE")]
    assume: Vec<Assume>,
    /// The hypervisor, by name or alias (default: the VMI's own, else qemu-kvm).
    #[arg(long, value_name = "NAME")]
    hypervisor: Option<String>,
    /// A catalogue that extends the built-in one (default: /etc/virt-launcher/hypervisors.yaml where it exists).
    #[arg(long, value_name = "FILE")]
    hypervisor_catalogue: Option<PathBuf>,
    /// The libvirt version to check against; without it no field is refused for a version.
    #[arg(long, value_name = "VERSION")]
    libvirt_version: Option<Version>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
}

const REFUSED: u8 = 1;
const UNUSABLE: u8 = 2;

/// Runs the subcommand; `words` are the arguments after its name.
pub fn run(words: &[OsString]) -> ExitCode {
    let program = std::iter::once(OsString::from("virt-launcher check"));
    let arguments = match Arguments::try_parse_from(program.chain(words.iter().cloned())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed standard output or error loses the text, nothing else.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { UNUSABLE } else { 0 });
        }
    };
    let options = Options {
        vm: arguments.vm.as_deref(),
        pod_network: !assume::is_pod() || facts::has_pod_tap(Path::new("/")),
        assumes_instancetype: !assume::is_pod(),
        ..Options::default()
    };
    let printed = vm_file::read(&arguments.vmi, options).and_then(|manifest| {
        let report = report(&arguments, &manifest).map_err(|error| vec![error])?;
        Ok((print(&report, &manifest, arguments.output).map_err(|error| vec![error])?, report.verdict))
    });
    match printed {
        Ok((text, verdict)) => {
            super::say(std::io::stdout(), &text);
            ExitCode::from(if verdict.refused().next().is_some() { REFUSED } else { 0 })
        }
        Err(lines) => {
            for line in lines {
                super::say(std::io::stderr(), &format!("virt-launcher: {line}\n"));
            }
            ExitCode::from(UNUSABLE)
        }
    }
}

/// All that is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(flatten)]
    verdict: Verdict,
    live_migration: LiveMigration,
}

/// What the hypervisor's rules say of the VMI, and what its conversion says; paths are the file's own.
fn report(arguments: &Arguments, manifest: &Manifest) -> Result<Report, String> {
    let catalogue = Catalogue::load(arguments.hypervisor_catalogue.as_deref()).map_err(|error| error.to_string())?;
    let vmi = &manifest.vmi;
    let own = Some(vmi.spec.hypervisor.as_str()).filter(|name| !name.is_empty());
    let wanted = arguments.hypervisor.as_deref().or(own).unwrap_or(DEFAULT_HYPERVISOR);
    let (name, entry) = catalogue.get(wanted).map_err(|error| error.to_string())?;
    let mut vmi = vmi.clone();
    let mut verdict = match pod(arguments, entry, manifest, &mut vmi)? {
        Ok(facts) => refusals::verdict((name, entry), &vmi, &facts, arguments.libvirt_version)?,
        Err((path, reason)) => {
            let rules = features_of(name, entry).map_err(|error| error.to_string())?;
            let mut verdict = Verdict::of(name, &rules, &vmi, host_architecture(), arguments.libvirt_version);
            refusals::add(&mut verdict, path, reason);
            verdict
        }
    };
    for finding in &mut verdict.findings {
        finding.path = manifest.path(&finding.path);
    }
    let rules = features_of(name, entry).map_err(|error| error.to_string())?;
    Ok(Report { verdict, live_migration: LiveMigration::of(manifest, &rules) })
}

/// The facts of the pod that the VMI would run in, or path and reason of what cannot be there. A hypervisor's device is not
/// looked for: it belongs to the machine, not to the VMI.
fn pod(
    arguments: &Arguments,
    entry: &Entry,
    manifest: &Manifest,
    vmi: &mut VirtualMachineInstance,
) -> Result<Result<HostFacts, (String, String)>, String> {
    let config = machine::config(vmi, &[])?;
    let mut hypervisor = facts::hypervisor_facts(entry, Path::new("/"), &vmi.domain_name());
    hypervisor.device_present = true;
    let images = &entry.launcher.firmware_images;
    let (facts, said) = match machine::facts(&config, hypervisor, images, vmi, &arguments.assume) {
        Ok(facts) => facts,
        Err(why) => {
            let field = why.split_once(": ").filter(|(path, _)| path.starts_with("spec."));
            return match field {
                Some((path, reason)) => Ok(Err((path.to_owned(), reason.to_owned()))),
                None => Err(why),
            };
        }
    };
    for line in said {
        super::say(std::io::stderr(), &format!("virt-launcher: {}\n", manifest.located(&line)));
    }
    Ok(Ok(facts))
}

fn print(report: &Report, manifest: &Manifest, form: Form) -> Result<String, String> {
    let Report { verdict, live_migration } = report;
    match form {
        Form::Json => serde_json::to_string_pretty(report).map(|text| text + "\n").map_err(|error| error.to_string()),
        Form::Table => {
            let mut rows = vec![["FIELD", "LEVEL", "REASON"].map(str::to_owned)];
            for finding in &verdict.findings {
                let needs = finding.needs.map(|version| format!("libvirt {version}: ")).unwrap_or_default();
                let reason = format!("{needs}{}", finding.reason);
                let line = manifest.line(&finding.path).map(|line| format!(" (line {line})")).unwrap_or_default();
                rows.push([format!("{}{line}", finding.path), finding.level.to_string(), reason]);
            }
            let target = format!("{}/{}", verdict.hypervisor, verdict.arch);
            let conclusion = match verdict.refused().count() {
                0 => format!("{target} can run this VMI\n"),
                1 => format!("{target} refuses this VMI for 1 field\n"),
                many => format!("{target} refuses this VMI for {many} fields\n"),
            };
            Ok(table(&rows) + &conclusion + &live_migration.lines(manifest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMI: &str = "kind: VirtualMachineInstance\nmetadata: {name: a}\nspec:\n  architecture: amd64\n  domain:\n    \
                       machine: {type: q35}\n    memory: {guest: 64Mi}\n    devices: {tpm: {}, gpus: [{name: g, deviceName: x}]}\n";

    fn manifest(text: &str) -> Manifest {
        Manifest::read(text, &Options { host_arch: "amd64", ..Options::default() }).unwrap()
    }

    fn report(words: &[&str], text: &str) -> Result<Report, String> {
        let words = ["check", "vmi.yaml"].iter().chain(words);
        super::report(&Arguments::try_parse_from(words).unwrap(), &manifest(text))
    }

    fn checked(words: &[&str]) -> Result<Verdict, String> {
        report(words, VMI).map(|report| report.verdict)
    }

    #[test]
    fn tables_and_json_say_the_same() {
        let report = report(&["--hypervisor", "ch"], VMI).unwrap();
        let text = print(&report, &manifest(VMI), Form::Table).unwrap();
        let line = |field: &str| text.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
        assert!(line("spec.domain.devices.tpm").contains("  unsupported  "), "{text}");
        assert!(line("spec.domain.devices.gpus[0]").contains("libvirt 10.10.0: "), "{text}");
        assert!(line("spec.domain.machine.type").contains("  ignored  "), "{text}");
        assert!(text.contains("\ncloud-hypervisor/amd64 refuses this VMI for 1 field\n"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&print(&report, &manifest(VMI), Form::Json).unwrap()).unwrap();
        assert_eq!(json.pointer("/hypervisor").unwrap(), "cloud-hypervisor");
        let refused = json.pointer("/findings").unwrap().as_array().unwrap();
        assert_eq!(refused.iter().filter(|finding| finding["refused"] == true).count(), 1);
    }

    #[test]
    fn what_cannot_be_converted_is_refused_with_the_files_own_path() {
        let text = "kind: VirtualMachine\nmetadata: {name: a}\nspec:\n  template:\n    spec:\n      domain:\n        \
                    memory: {guest: 1Gi}\n        devices: {sound: {name: s, model: sb16}}\n";
        let manifest = manifest(text);
        let report = report(&[], text).unwrap();
        let refused: Vec<&str> = report.verdict.refused().map(|finding| finding.path.as_str()).collect();
        assert_eq!(refused, ["spec.template.spec.domain.devices.sound.model"]);
        let text = print(&report, &manifest, Form::Table).unwrap();
        assert!(text.contains("devices.sound.model (line 8)  unsupported  invalid model: sb16"), "{text}");
    }

    #[test]
    fn live_migration_is_answered_with_the_files_own_path() {
        let said = |words: &[&str], volume: &str, interface: &str| {
            let text = format!(
                "kind: VirtualMachine\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      domain:\n        \
                 memory: {{guest: 1Gi}}\n        devices: {{disks: [{{name: v}}], interfaces: [{{name: net, {interface}: {{}}}}]}}\n      \
                 networks: [{{name: net, pod: {{}}}}]\n      volumes:\n      - {{name: v, {volume}}}\n"
            );
            let report = report(words, &text).unwrap();
            let printed = print(&report, &manifest(&text), Form::Table).unwrap();
            let (_, said) = printed.split_once("live migration: ").unwrap_or_default();
            (said.to_owned(), serde_json::to_value(&report).unwrap())
        };
        let (own, claim) = ("emptyDisk: {capacity: 1Gi}", "persistentVolumeClaim: {claimName: c}");
        let (text, json) = said(&[], own, "masquerade");
        assert_eq!(text, "yes, with a copy of v\n");
        assert_eq!(json["liveMigration"]["method"], "BlockMigration");
        let (text, json) = said(&["--assume", "v=raw:1Gi"], claim, "masquerade");
        assert!(text.starts_with("depends on the cluster\nspec.template.spec.volumes[0] (line 11)  Disks"), "{text}");
        assert!(text.ends_with("; unless the claim c has the access mode ReadWriteMany\n"), "{text}");
        assert_eq!(json["liveMigration"]["migratable"], "depends");
        let (text, _) = said(&["--assume", "v=raw:1Gi"], claim, "bridge");
        assert!(text.starts_with("no\nspec.template.spec.domain.devices.interfaces[0] (line 8)  Interface"), "{text}");
        let (text, _) = said(&["--hypervisor", "ch"], own, "masquerade");
        assert!(text.contains("no\n") && text.contains("the hypervisor cannot migrate: "), "{text}");
    }

    #[test]
    fn hypervisor_is_the_flags_then_the_vmis_then_qemu() {
        assert_eq!(checked(&[]).unwrap().hypervisor, "qemu-kvm");
        assert_eq!(checked(&["--hypervisor", "kvm"]).unwrap().refusal(), None);
        let old = checked(&["--hypervisor", "ch", "--libvirt-version", "9.0"]).unwrap();
        assert_eq!(old.refused().count(), 2);
        assert!(checked(&["--hypervisor", "xen"]).unwrap_err().contains("qemu-kvm (or kvm)"));
    }
}
