//! `virt-launcher check`: what a hypervisor makes of a VMI, without running it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use super::table;
use crate::hypervisor::{Catalogue, DEFAULT_HYPERVISOR, Verdict, Version, features_of, host_architecture};
use crate::vmi::parse_document;

/// Says what a hypervisor refuses, drops or needs for the fields of a VMI. Exit code 0: the VMI can run; 1: it is
/// refused; 2: it, or the catalogue, cannot be read.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher check")]
struct Arguments {
    /// VirtualMachineInstance or VirtualMachine, JSON or YAML; `-` reads standard input.
    vmi: PathBuf,
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
    let printed = read(&arguments.vmi)
        .and_then(|text| verdict(&arguments, &text))
        .and_then(|verdict| Ok((print(&verdict, arguments.output)?, verdict)));
    match printed {
        Ok((text, verdict)) => {
            super::say(std::io::stdout(), &text);
            ExitCode::from(if verdict.refused().next().is_some() { REFUSED } else { 0 })
        }
        Err(error) => {
            super::say(std::io::stderr(), &format!("virt-launcher: {error}\n"));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn verdict(arguments: &Arguments, text: &str) -> Result<Verdict, String> {
    let catalogue = Catalogue::load(arguments.hypervisor_catalogue.as_deref()).map_err(|error| error.to_string())?;
    let vmi = parse_document(text).map_err(|error| format!("{}: {error}", arguments.vmi.display()))?;
    let own = Some(vmi.spec.hypervisor.as_str()).filter(|name| !name.is_empty());
    let wanted = arguments.hypervisor.as_deref().or(own).unwrap_or(DEFAULT_HYPERVISOR);
    let (name, entry) = catalogue.get(wanted).map_err(|error| error.to_string())?;
    let rules = features_of(name, entry).map_err(|error| error.to_string())?;
    Ok(Verdict::of(name, &rules, &vmi, host_architecture(), arguments.libvirt_version))
}

fn print(verdict: &Verdict, form: Form) -> Result<String, String> {
    match form {
        Form::Json => serde_json::to_string_pretty(verdict).map(|text| text + "\n").map_err(|error| error.to_string()),
        Form::Table => {
            let mut rows = vec![["FIELD", "LEVEL", "REASON"].map(str::to_owned)];
            for finding in &verdict.findings {
                let needs = finding.needs.map(|version| format!("libvirt {version}: ")).unwrap_or_default();
                let reason = format!("{needs}{}", finding.reason);
                rows.push([finding.path.clone(), finding.level.to_string(), reason]);
            }
            let target = format!("{}/{}", verdict.hypervisor, verdict.arch);
            let conclusion = match verdict.refused().count() {
                0 => format!("{target} can run this VMI\n"),
                1 => format!("{target} refuses this VMI for 1 field\n"),
                many => format!("{target} refuses this VMI for {many} fields\n"),
            };
            Ok(table(&rows) + &conclusion)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMI: &str = "kind: VirtualMachineInstance\nmetadata: {name: a}\nspec:\n  architecture: amd64\n  domain:\n    \
                       machine: {type: q35}\n    devices: {tpm: {}, gpus: [{name: g, deviceName: x}]}\n";

    fn checked(words: &[&str]) -> Result<Verdict, String> {
        let words = ["check", "vmi.yaml"].iter().chain(words);
        verdict(&Arguments::try_parse_from(words).unwrap(), VMI)
    }

    #[test]
    fn tables_and_json_say_the_same() {
        let verdict = checked(&["--hypervisor", "ch"]).unwrap();
        let text = print(&verdict, Form::Table).unwrap();
        let line = |field: &str| text.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
        assert!(line("spec.domain.devices.tpm").contains("  unsupported  "), "{text}");
        assert!(line("spec.domain.devices.gpus[0]").contains("libvirt 10.10.0: "), "{text}");
        assert!(line("spec.domain.machine.type").contains("  ignored  "), "{text}");
        assert!(text.ends_with("cloud-hypervisor/amd64 refuses this VMI for 1 field\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&print(&verdict, Form::Json).unwrap()).unwrap();
        assert_eq!(json.pointer("/hypervisor").unwrap(), "cloud-hypervisor");
        let refused = json.pointer("/findings").unwrap().as_array().unwrap();
        assert_eq!(refused.iter().filter(|finding| finding["refused"] == true).count(), 1);
    }

    #[test]
    fn the_hypervisor_is_the_flag_s_then_the_vmi_s_then_qemu() {
        assert_eq!(checked(&[]).unwrap().hypervisor, "qemu-kvm");
        assert_eq!(checked(&["--hypervisor", "kvm"]).unwrap().refusal(), None);
        let old = checked(&["--hypervisor", "ch", "--libvirt-version", "9.0"]).unwrap();
        assert_eq!(old.refused().count(), 2);
        assert!(checked(&["--hypervisor", "xen"]).unwrap_err().contains("qemu-kvm (or kvm)"));
    }
}
