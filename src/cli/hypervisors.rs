//! `virt-launcher hypervisors`: prints the catalogue.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::hypervisor::{Catalogue, Entry};

/// Shows the hypervisors that this launcher knows.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher hypervisors")]
struct Arguments {
    /// Only this one, by name or alias.
    name: Option<String>,
    /// A catalogue that extends the built-in one (default: /etc/virt-launcher/hypervisors.yaml where it exists).
    #[arg(long, value_name = "FILE")]
    hypervisor_catalogue: Option<PathBuf>,
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
    let document = BTreeMap::from([("hypervisors", &chosen)]);
    match arguments.output {
        Form::Table => Ok(table(&chosen)),
        Form::Yaml => serde_norway::to_string(&document).map_err(|error| error.to_string()),
        Form::Json => {
            serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(|error| error.to_string())
        }
    }
}

fn table(entries: &BTreeMap<&str, &Entry>) -> String {
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
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
    fn one_is_found_by_alias_and_an_unknown_name_lists_the_known() {
        let text = printed(&arguments(&["kvm"])).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("qemu-kvm"));
        let error = printed(&arguments(&["xen"])).unwrap_err();
        assert!(error.contains("xen") && error.contains("cloud-hypervisor"), "{error}");
    }
}
