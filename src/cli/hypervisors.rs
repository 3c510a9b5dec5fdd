//! `virt-launcher hypervisors`: prints the catalogue.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use super::table;
use crate::hypervisor::{Catalogue, Entry, Feature, features_of};

/// Shows the hypervisors that this launcher knows.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher hypervisors")]
struct Arguments {
    /// Only this one, by name or alias.
    name: Option<String>,
    /// A catalogue that extends the built-in one (default: /etc/virt-launcher/hypervisors.yaml where it exists).
    #[arg(long, value_name = "FILE")]
    hypervisor_catalogue: Option<PathBuf>,
    /// Show what they make of a VMI's fields instead.
    #[arg(long)]
    features: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Yaml,
    Json,
}

/// Runs the subcommand; `words` are the arguments after its name. Exit code 1 for a catalogue or name that cannot be
/// used, 2 for wrong usage.
pub fn run(words: &[OsString]) -> ExitCode {
    let program = std::iter::once(OsString::from("virt-launcher hypervisors"));
    let arguments = match Arguments::try_parse_from(program.chain(words.iter().cloned())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed standard output or error loses the text, nothing else.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match printed(&arguments) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("virt-launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn printed(arguments: &Arguments) -> Result<String, String> {
    let catalogue = Catalogue::load(arguments.hypervisor_catalogue.as_deref()).map_err(|error| error.to_string())?;
    let chosen: BTreeMap<&str, &Entry> = match &arguments.name {
        Some(name) => [catalogue.get(name).map_err(|error| error.to_string())?].into(),
        None => catalogue.iter().collect(),
    };
    if arguments.features {
        return features(&chosen, arguments.output);
    }
    let document = BTreeMap::from([("hypervisors", &chosen)]);
    match arguments.output {
        Form::Table => Ok(summary(&chosen)),
        Form::Yaml => serde_norway::to_string(&document).map_err(|error| error.to_string()),
        Form::Json => {
            serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(|error| error.to_string())
        }
    }
}

fn summary(entries: &BTreeMap<&str, &Entry>) -> String {
    let mut rows = vec![["NAME", "ALIASES", "COMMANDS", "DAEMON", "DEVICE", "CLOUD-INIT"].map(str::to_owned)];
    for (name, entry) in entries {
        rows.push([
            (*name).to_owned(),
            entry.aliases.join(","),
            entry.hypervisor_command_prefixes.join(","),
            entry.libvirt_daemon.libvirt_daemon_executable.display().to_string(),
            entry.hypervisor_device.clone(),
            entry.cloud_init_file_type.clone(),
        ]);
    }
    table(&rows)
}

fn features(entries: &BTreeMap<&str, &Entry>, form: Form) -> Result<String, String> {
    let mut all: BTreeMap<&str, Vec<Feature>> = BTreeMap::new();
    for (name, entry) in entries {
        all.insert(name, features_of(name, entry).map_err(|error| error.to_string())?);
    }
    match form {
        Form::Table => {
            let mut rows = vec![["HYPERVISOR", "FIELD OR OPERATION", "ARCH", "LEVEL", "REASON"].map(str::to_owned)];
            for (name, rules) in &all {
                for rule in rules {
                    let arch = if rule.arch.is_empty() { "all".to_owned() } else { rule.arch.join(",") };
                    let needs = rule.needs.map(|version| format!("libvirt {version}: ")).unwrap_or_default();
                    let reason = format!("{needs}{}", rule.reason);
                    rows.push([(*name).to_owned(), rule.subject(), arch, rule.level.to_string(), reason]);
                }
            }
            Ok(table(&rows))
        }
        Form::Yaml => serde_norway::to_string(&BTreeMap::from([("features", &all)])).map_err(|error| error.to_string()),
        Form::Json => serde_json::to_string_pretty(&BTreeMap::from([("features", &all)]))
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::try_parse_from(std::iter::once(&"hypervisors").chain(words)).unwrap()
    }

    #[test]
    fn what_is_printed_as_yaml_is_a_catalogue_again() {
        let text = printed(&arguments(&["-o", "yaml"])).unwrap();
        let read = Catalogue::parse(&text, std::path::Path::new("printed")).unwrap();
        assert_eq!(read, Catalogue::builtin().unwrap());
    }

    #[test]
    fn features_are_printed_in_every_form() {
        let text = printed(&arguments(&["ch", "--features"])).unwrap();
        let tpm = text.lines().find(|line| line.contains("spec.domain.devices.tpm")).unwrap();
        assert!(tpm.starts_with("cloud-hypervisor  ") && tpm.contains("  unsupported  "), "{tpm}");
        assert!(text.contains("spec.domain.cpu.model: not host-model, host-passthrough"), "{text}");
        let json = printed(&arguments(&["--features", "-o", "json"])).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let of = |name: &str| json.pointer(&format!("/features/{name}")).unwrap().as_array().unwrap().len();
        assert!(of("cloud-hypervisor") > 70 && of("qemu-kvm") > 5 && of("hyperv-direct") > 5);
        assert!(printed(&arguments(&["--features", "-o", "yaml"])).unwrap().contains("needs: 11.10.0"));
    }

    #[test]
    fn one_is_found_by_alias_and_an_unknown_name_lists_the_known() {
        let text = printed(&arguments(&["kvm"])).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("qemu-kvm"));
        let error = printed(&arguments(&["xen"])).unwrap_err();
        assert!(error.contains("xen") && error.contains("cloud-hypervisor"), "{error}");
    }
}
