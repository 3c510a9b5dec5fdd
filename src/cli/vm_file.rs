//! The file with a virtual machine that a person names on the command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::hypervisor::host_architecture;
use crate::vmi::manifest::{Manifest, Options};

/// Longest file that is read: far above any VMI, far below what would hurt.
const LONGEST: u64 = 64 << 20;

/// The file, and which virtual machine of it.
#[derive(Debug, Clone, clap::Args)]
pub struct VmFile {
    /// VirtualMachineInstance, VirtualMachine or what makes some (ReplicaSet, Pool), YAML or JSON, also among other
    /// objects; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The virtual machine that is meant, where the file has several.
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
}

impl VmFile {
    /// Reads the virtual machine and prints what is to be said about it on standard error. An error has one line for each
    /// thing that is wrong, each with the file's name.
    pub fn read(&self, options: Options<'_>) -> Result<Manifest, Vec<String>> {
        read(&self.file, Options { vm: self.vm.as_deref(), ..options })
    }
}

/// [`VmFile::read`] of a path alone.
pub(super) fn read(path: &Path, options: Options<'_>) -> Result<Manifest, Vec<String>> {
    let name = match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let text = text(path).map_err(|error| vec![format!("{name}: {error}")])?;
    let options = Options { file: &name, host_arch: host_architecture(), ..options };
    let manifest = Manifest::read(&text, &options).map_err(|error| error.lines().to_vec())?;
    for line in manifest.warning_lines() {
        super::say(std::io::stderr(), &format!("virt-launcher: {line}\n"));
    }
    Ok(manifest)
}

/// The text of a file, or of standard input.
pub(super) fn text(path: &Path) -> std::io::Result<String> {
    let input: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path)?),
    };
    let mut text = String::new();
    let length = input.take(LONGEST + 1).read_to_string(&mut text)?;
    match u64::try_from(length).unwrap_or(u64::MAX) > LONGEST {
        true => Err(std::io::Error::other(format!("longer than {} MiB", LONGEST >> 20))),
        false => Ok(text),
    }
}
