//! `virt-launcher domain-xml`: what would be defined for a VMI, without a libvirt.

mod explain;
pub(super) mod machine;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use super::assume::{self, Assume};
use super::{NOT_THERE, USAGE, refusals, say, vm_file};
use crate::convert::{ConvertError, Defines, HostFacts, HypervisorFacts};
use crate::domain::DomainSpec;
use crate::hypervisor::{Catalogue, CatalogueError};
use crate::launcher::facts::{self, hypervisor_facts};
use crate::vmi::VirtualMachineInstance;
use crate::vmi::manifest::{Manifest, Options};
use explain::{Stage, explanation};

/// Prints the XML of the last define for a VMI.
///
/// A boot makes one to three defines; those after the first start from what libvirt read back of the one before, which
/// `--readback` gives. Without it the first define is the last.
#[derive(Debug, Parser)]
#[command(name = "virt-launcher domain-xml")]
pub struct Arguments {
    /// VirtualMachineInstance, VirtualMachine or what makes some (ReplicaSet, Pool), JSON or YAML, also among other objects;
    /// `-` reads standard input.
    pub vmi: PathBuf,
    /// The virtual machine that is meant, where the file has several.
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// What a volume is whose content is not here, such as `root=qcow2:20Gi`, `data=raw:5Gi` or `data=block:5Gi`; may be
    /// repeated. Away from a pod the rest is assumed: qcow2 images of 10Gi in containers, raw claims.
    #[arg(long, value_name = "VOLUME=FORMAT:SIZE", conflicts_with = "context")]
    pub assume: Vec<Assume>,
    /// Facts about the machine and the sync's options, as a golden case's ctx.json; the VMI is then taken as virt-handler
    /// sends it, without the API server's defaults. Without a context this machine's facts are taken.
    #[arg(long, value_name = "CTX")]
    pub context: Option<PathBuf>,
    /// What libvirt answered to the first define (`virsh dumpxml --inactive`).
    #[arg(long, value_name = "XML")]
    pub readback: Option<PathBuf>,
    /// Write every define there, as 1.xml, 2.xml, …
    #[arg(long, value_name = "DIR")]
    pub defines_dir: Option<PathBuf>,
    /// Hypervisor of the catalogue; wins over the context's and the VMI's own.
    #[arg(long, value_name = "NAME")]
    pub hypervisor: Option<String>,
    /// A catalogue that extends the built-in one (default: /etc/virt-launcher/hypervisors.yaml where it exists).
    #[arg(long, value_name = "FILE")]
    pub hypervisor_catalogue: Option<PathBuf>,
    /// Say which conversion step made which element, instead of the XML.
    #[arg(long)]
    pub explain: bool,
    /// Print the facts that were used, as a context, instead of the XML.
    #[arg(long, conflicts_with = "explain")]
    pub facts: bool,
    /// Flags of the launcher whose pod this machine is, such as `-- --allow-emulation`; only without --context.
    #[arg(last = true, value_name = "LAUNCHER FLAG", conflicts_with = "context")]
    pub launcher_flags: Vec<OsString>,
}

/// Why there is no XML.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Document {
        /// The file.
        path: PathBuf,
        /// Where in it, and why.
        why: String,
    },
    /// There is no such hypervisor.
    #[error("{field}: {error}")]
    Hypervisor {
        /// Who named it.
        field: &'static str,
        /// Why not.
        error: CatalogueError,
    },
    /// The catalogue cannot be used.
    #[error(transparent)]
    Catalogue(CatalogueError),
    /// The launcher's flags cannot be used.
    #[error("{0}")]
    Flags(String),
    /// The VM's file cannot be used; one line for each reason, with the file's name.
    #[error("{}", .0.join("\n"))]
    Manifest(Vec<String>),
    /// This machine cannot be looked at.
    #[error("{0}")]
    Machine(String),
    /// The VMI cannot be converted. The text has the file's name, line and path.
    #[error("{0}")]
    Convert(String),
}

/// Runs the subcommand; `words` are the arguments after its name. Exit code 1 for what cannot be read or converted, 2
/// for wrong usage.
pub fn run(words: &[OsString]) -> ExitCode {
    let program = std::iter::once(OsString::from("virt-launcher domain-xml"));
    let arguments = match Arguments::try_parse_from(program.chain(words.iter().cloned())) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed standard output or error loses the text, nothing else.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match printed(&arguments) {
        Ok(text) => {
            let out = std::io::stdout();
            // A define's bytes are these and no others; only a person at a terminal wants the line to end.
            let end = if out.is_terminal() && !text.ends_with('\n') { "\n" } else { "" };
            say(out, &(text + end));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            for line in problem.to_string().lines() {
                say(std::io::stderr(), &format!("virt-launcher: {line}\n"));
            }
            ExitCode::from(NOT_THERE)
        }
    }
}

fn printed(arguments: &Arguments) -> Result<String, Problem> {
    // A context describes a sync, and so does the VMI that comes with it.
    let options = Options {
        vm: arguments.vm.as_deref(),
        is_complete: arguments.context.is_some(),
        pod_network: !assume::is_pod() || facts::has_pod_tap(Path::new("/")),
        assumes_instancetype: !assume::is_pod(),
        ..Options::default()
    };
    let manifest = vm_file::read(&arguments.vmi, options).map_err(Problem::Manifest)?;
    let mut vmi = manifest.vmi.clone();
    let facts = facts(arguments, &manifest, &mut vmi)?;
    let unconverted = |error: ConvertError| Problem::Convert(manifest.located(&error.with_path()));
    if arguments.facts {
        return serde_json::to_string_pretty(&facts)
            .map(|text| text + "\n")
            .map_err(|error| Problem::Machine(error.to_string()));
    }
    let readback = arguments.readback.as_deref().map(read).transpose()?;
    let refused = refusals(arguments, &manifest, &vmi, &facts)?;
    if !refused.is_empty() && arguments.context.is_none() {
        return Err(Problem::Convert(refused.join("\n")));
    }
    let devices = readback.as_deref().map(DomainSpec::from_xml).transpose().map_err(|error| Problem::Document {
        path: arguments.readback.clone().unwrap_or_default(),
        why: error.to_string(),
    })?;

    let mut stages = Vec::new();
    let mut observe = |step: &'static str, document: &DomainSpec| {
        if arguments.explain {
            stages.push(Stage { step, document: document.clone() });
        }
    };
    let mut boot = Defines::observed(&vmi, &facts, &mut observe).map_err(unconverted)?;
    // A context is a recorded sync: the document is shown beside what would keep it from being defined.
    for line in refused {
        say(std::io::stderr(), &format!("virt-launcher: refused before the define: {line}\n"));
    }
    observe("hot-plug topology", boot.document());
    let mut defines = vec![boot.xml()];
    while !boot.is_last() && devices.is_some() {
        let first = boot.needs_readback();
        boot.next(readback.as_deref()).map_err(unconverted)?;
        if let Some(read) = devices.as_ref().filter(|_| first) {
            // The interfaces are libvirt's only where no placeholders had to be taken out again.
            let mut document = boot.document().clone();
            let interfaces = std::mem::take(&mut document.devices.interfaces);
            document.devices = read.devices.clone();
            document.devices.interfaces = interfaces;
            observe("libvirt's read-back", &document);
        }
        observe("hot-plug topology", boot.document());
        defines.push(boot.xml());
    }
    if let Some(folder) = &arguments.defines_dir {
        write(folder, &defines)?;
    }
    if !boot.is_last() {
        let note = "virt-launcher: this is the first define; the later ones need --readback\n";
        say(std::io::stderr(), note);
    }
    Ok(if arguments.explain { explanation(&stages) } else { defines.pop().unwrap_or_default() })
}

/// All that `check` refuses, with the file's lines.
fn refusals(
    arguments: &Arguments,
    manifest: &Manifest,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
) -> Result<Vec<String>, Problem> {
    let catalogue = Catalogue::load(arguments.hypervisor_catalogue.as_deref()).map_err(Problem::Catalogue)?;
    let of_context =
        Some(facts.hypervisor.name.as_str()).filter(|name| !name.is_empty() && arguments.context.is_some());
    let own = Some(vmi.spec.hypervisor.as_str()).filter(|name| !name.is_empty());
    let asked = arguments.hypervisor.as_deref().or(of_context).or(own);
    let config = machine::config(vmi, &arguments.launcher_flags).map_err(Problem::Flags)?;
    let name = asked.or(config.hypervisor.as_deref()).unwrap_or(crate::hypervisor::DEFAULT_HYPERVISOR);
    let found = catalogue.get(name).map_err(|error| Problem::Hypervisor { field: "--hypervisor", error })?;
    let verdict = refusals::verdict(found, vmi, facts, None).map_err(Problem::Machine)?;
    Ok(verdict.refused().map(|finding| manifest.located(&refusals::line(finding))).collect())
}

/// The context's facts or this machine's, for the hypervisor that is asked for.
fn facts(arguments: &Arguments, manifest: &Manifest, vmi: &mut VirtualMachineInstance) -> Result<HostFacts, Problem> {
    let catalogue = Catalogue::load(arguments.hypervisor_catalogue.as_deref()).map_err(Problem::Catalogue)?;
    let domain = vmi.domain_name();
    let find = |field: &'static str, name: &str| {
        let (_, entry) = catalogue.get(name).map_err(|error| Problem::Hypervisor { field, error })?;
        Ok((hypervisor_facts(entry, Path::new("/"), &domain), entry.launcher.firmware_images.as_slice()))
    };
    let own = Some(vmi.spec.hypervisor.as_str()).filter(|name| !name.is_empty());
    let asked = arguments.hypervisor.as_deref().map(|name| find("--hypervisor", name)).transpose()?;
    let wanted = own.map(|name| find("spec.hypervisor", name)).transpose()?;
    let Some(path) = &arguments.context else {
        let config = machine::config(vmi, &arguments.launcher_flags).map_err(Problem::Flags)?;
        let flag = config.hypervisor.as_deref().map(|name| find("--hypervisor", name)).transpose()?;
        let (hypervisor, images) = match asked.or(flag).or(wanted) {
            Some(found) => found,
            None => find("--hypervisor", crate::hypervisor::DEFAULT_HYPERVISOR)?,
        };
        let (facts, said) =
            machine::facts(&config, hypervisor, images, vmi, &arguments.assume).map_err(Problem::Machine)?;
        for line in said {
            say(std::io::stderr(), &format!("virt-launcher: {}\n", manifest.located(&line)));
        }
        return Ok(facts);
    };
    let text = read(path)?;
    let mut reader = serde_json::Deserializer::from_str(&text);
    let mut facts: HostFacts = serde_path_to_error::deserialize(&mut reader)
        .and_then(|facts| {
            reader
                .end()
                .map(|()| facts)
                .map_err(|error| serde_path_to_error::Error::new(serde_path_to_error::Track::new().path(), error))
        })
        .map_err(|error| Problem::Document { path: path.clone(), why: at(&error.path().to_string(), error.inner()) })?;
    let unknown = unknown_keys(&text, &facts);
    if !unknown.is_empty() {
        let note = format!("virt-launcher: {}: ignored: {}\n", path.display(), unknown.join(", "));
        say(std::io::stderr(), &note);
    }
    let named = !facts.hypervisor.name.is_empty();
    if let Some((hypervisor, _)) = asked.or(wanted.filter(|_| !named)) {
        // The context says what is there, but not which hypervisor it is for.
        let HypervisorFacts { device_present, firmware_image, .. } = std::mem::take(&mut facts.hypervisor);
        facts.hypervisor = HypervisorFacts { device_present, firmware_image, ..hypervisor };
    }
    Ok(facts)
}

/// Keys of a context that no fact has: misspelt ones, or a newer version's.
fn unknown_keys(text: &str, facts: &HostFacts) -> Vec<String> {
    let given: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_str(text).unwrap_or_default();
    let known = serde_json::to_value(facts).unwrap_or_default();
    given.into_keys().filter(|key| known.get(key).is_none()).collect()
}

/// The message with its path; the outermost value has none.
fn at(path: &str, problem: impl std::fmt::Display) -> String {
    if path == "." { problem.to_string() } else { format!("{path}: {problem}") }
}

fn read(path: &Path) -> Result<String, Problem> {
    vm_file::text(path).map_err(|error| Problem::File { path: path.to_owned(), error })
}

fn write(folder: &Path, defines: &[String]) -> Result<(), Problem> {
    let problem = |path: &Path| {
        let path = path.to_owned();
        move |error| Problem::File { path, error }
    };
    std::fs::create_dir_all(folder).map_err(problem(folder))?;
    for (index, xml) in defines.iter().enumerate() {
        let path = folder.join(format!("{}.xml", index + 1));
        std::fs::write(&path, xml).map_err(problem(&path))?;
    }
    Ok(())
}
