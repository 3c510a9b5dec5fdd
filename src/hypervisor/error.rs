//! Why a hypervisor cannot be used: by what the catalogue says, or by what the image has.

use std::path::PathBuf;

use super::features::FeatureError;

/// Why a catalogue, or a name in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("hypervisor catalogue {file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not YAML, or for a whole catalogue not of the schema; the source names the line.
    #[error("hypervisor catalogue {file}: {source}")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_norway::Error,
    },
    /// It is YAML, and says something that is not of the schema.
    #[error("hypervisor catalogue {file}: {}{problem}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
    Document {
        /// The file.
        file: PathBuf,
        /// The path of the field.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field has a value that cannot work.
    #[error("hypervisor catalogue {file}: hypervisors.{name}.{field}: {problem}")]
    Field {
        /// The file.
        file: PathBuf,
        /// The entry.
        name: String,
        /// The field's path below the entry.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The catalogue has no hypervisor of this name.
    #[error("unknown hypervisor {name:?}; known are {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// All names and aliases.
        known: String,
    },
}

/// Why an entry cannot be used in this image.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No libvirt daemon is installed.
    #[error(
        "hypervisor {name}: libvirtDaemon.libvirtDaemonExecutable: {modular} does not exist{}",
        monolithic.as_ref().map(|path| format!(", nor does the monolithic {}", path.display())).unwrap_or_default()
    )]
    NoDaemon {
        /// The entry's name.
        name: String,
        /// The modular daemon's path.
        modular: PathBuf,
        /// The monolithic daemon's path, where the entry has one.
        monolithic: Option<PathBuf>,
    },
    /// The log daemon is missing.
    #[error("hypervisor {name}: launcher.virtlogd.executable: {path} does not exist")]
    NoVirtlogd {
        /// The entry's name.
        name: String,
        /// The executable's path.
        path: PathBuf,
    },
    /// The feature table cannot be used.
    #[error("hypervisor {name}: {source}")]
    Features {
        /// The entry's name.
        name: String,
        /// Why.
        source: FeatureError,
    },
    /// The entry's regular expression is none; the catalogue checks it, so this is for entries made elsewhere.
    #[error("hypervisor {name}: vcpuRegex: {source}")]
    VcpuRegex {
        /// The entry's name.
        name: String,
        /// Why.
        source: regex::Error,
    },
}
