//! One golden case: its files and how it is judged (README.md beside the cases).

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use crate::{diff, subject};

pub struct Case {
    /// `FAMILY-what`
    pub name: String,
    folder: PathBuf,
}

pub enum Verdict {
    /// Every define is the original's.
    Same,
    /// An error was due and came before any define.
    Refused {
        /// The original's words and ours, where they differ.
        other_text: Option<(String, String)>,
    },
    /// First line: which define, or that an error came or did not; then what differs.
    Differs(String),
}

/// The cases of a folder whose names contain `only`, sorted.
pub fn list(folder: &Path, only: &str) -> Vec<Case> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let cases = names.filter_map(|name| Some(name.strip_suffix(".vmi.json")?.to_owned()));
    let mut names: Vec<String> = cases.filter(|name| name.contains(only)).collect();
    names.sort();
    names.into_iter().map(|name| Case { name, folder: folder.to_owned() }).collect()
}

impl Case {
    pub fn family(&self) -> &str {
        self.name.split('-').next().unwrap_or("")
    }

    pub fn judge(&self) -> Verdict {
        let vmi = self.read("vmi.json").unwrap();
        let context = self.read("ctx.json").unwrap();
        let readback = self.read("readback.xml");
        // libvirt refused the first define, so there is nothing after it.
        let rejected = self.read("rejected").is_some();
        let mut defines = Vec::new();
        let run = || subject::boot(&vmi, &context, readback.as_deref(), rejected, &mut defines);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("PANIC: {}", text.unwrap_or_default()))
        });
        match (self.read("err"), outcome) {
            (Some(_), Err(error)) if error.starts_with("PANIC") => Verdict::Differs(error),
            (Some(expected), Err(error)) if defines.is_empty() => {
                let (expected, ours) = (expected.trim_end().to_owned(), error.trim_end().to_owned());
                Verdict::Refused { other_text: (expected != ours).then_some((expected, ours)) }
            }
            (Some(expected), Err(error)) => {
                Verdict::Differs(format!("error only after a define: {error}\nexpected before: {expected}"))
            }
            (Some(expected), Ok(())) => Verdict::Differs(format!("no error; expected: {expected}")),
            (None, outcome) => self.compare(&defines, outcome),
        }
    }

    fn compare(&self, defines: &[String], outcome: Result<(), String>) -> Verdict {
        let expected: Vec<String> = ["define1.xml", "define2.xml", "xml"]
            .iter()
            .filter_map(|suffix| self.read(suffix))
            .map(|expected| self.mended(expected))
            .collect();
        for (index, (expected, ours)) in expected.iter().zip(defines).enumerate() {
            if expected != ours {
                let difference = diff::lines(expected, ours);
                return Verdict::Differs(format!("define {} of {} differs\n{difference}", index + 1, self.count()));
            }
        }
        match outcome {
            Err(error) => Verdict::Differs(format!("error after {} right defines: {error}", defines.len())),
            Ok(()) if defines.len() == expected.len() => Verdict::Same,
            Ok(()) => Verdict::Differs(format!("{} defines instead of {}", defines.len(), expected.len())),
        }
    }

    /// What the document should have been, where libvirt refused it and this launcher makes one that runs: a CD-ROM or
    /// LUN on USB has a USB controller, as a disk on USB has.
    fn mended(&self, expected: String) -> String {
        match self.read("rejected") {
            Some(why) if why.contains("USB is disabled for this domain, but USB devices are present") => {
                let controller = |model: &str| format!(r#"<controller type="usb" index="0" model="{model}">"#);
                expected.replace(&controller("none"), &controller("qemu-xhci"))
            }
            Some(_) | None => expected,
        }
    }

    fn count(&self) -> usize {
        ["define1.xml", "define2.xml", "xml"].iter().filter(|suffix| self.path(suffix).exists()).count()
    }

    fn read(&self, suffix: &str) -> Option<String> {
        let path = self.path(suffix);
        path.exists().then(|| std::fs::read_to_string(path).unwrap())
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }
}
