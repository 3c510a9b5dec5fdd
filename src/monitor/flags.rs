//! The monitor's flags (contract/lifecycle.md 2.2). The same words go to the launcher, so what the monitor does not know
//! is not a mistake here; the launcher refuses what is wrong with the rest.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::domain::parse_bool;

/// A switch of the monitor's alone.
const KEEP: &str = "--keep-after-failure";
/// The original's behaviour: a launcher that dies takes its VM along.
const NO_ADOPT: &str = "--no-adopt";
/// How many launchers may die in a row; takes a number.
const ADOPT_LIMIT: &str = "--adopt-limit";

/// The monitor's flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// Where container disks' sockets are.
    pub container_disk_dir: PathBuf,
    /// Stay after a failed run.
    pub keep_after_failure: bool,
    /// Start no new launcher for a VM whose launcher has died.
    pub no_adopt: bool,
    /// How many launchers may die in a row before the VM is ended; `None`: the policy's own number.
    pub adopt_limit: Option<u32>,
    /// The VMI's UID, which names the folder of what a launcher remembers.
    pub uid: String,
    /// Log verbosity.
    pub verbosity: i32,
    /// The launcher's catalogue file: its hypervisors are ended, too.
    pub hypervisor_catalogue: Option<PathBuf>,
}

impl Default for Flags {
    fn default() -> Self {
        Flags {
            container_disk_dir: "/var/run/kubevirt/container-disks".into(),
            keep_after_failure: false,
            no_adopt: false,
            adopt_limit: None,
            uid: String::new(),
            verbosity: crate::logging::DEFAULT_VERBOSITY,
            hypervisor_catalogue: None,
        }
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To run.
    Run(Flags),
    /// `--help`.
    Help,
    /// A value of the monitor's own flag that the launcher will not see.
    Wrong(String),
}

/// Reads the words after the program's name.
///
/// The rule for unknown flags is the original's: `--x=val` is one word; `--x` takes the next word too unless that starts
/// with `-`. A verbosity that is not a number is left for the launcher to refuse.
pub fn read(words: &[OsString]) -> Asked {
    let mut flags = Flags::default();
    let mut rest = words.iter().map(|word| word.to_string_lossy()).peekable();
    while let Some(word) = rest.next() {
        if word == "--" {
            break;
        }
        if word == "--help" || word == "-h" {
            return Asked::Help;
        }
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone().into_owned(), None),
        };
        let letter_value = name.strip_prefix("-v").filter(|value| !value.is_empty()).map(str::to_owned);
        match name.as_str() {
            KEEP | NO_ADOPT => {
                let text = value.as_deref().unwrap_or("true");
                let Some(on) = parse_bool(text) else {
                    return Asked::Wrong(format!("invalid argument {text:?} for {name}: expected true or false"));
                };
                match name.as_str() {
                    KEEP => flags.keep_after_failure = on,
                    _ => flags.no_adopt = on,
                }
            }
            ADOPT_LIMIT => {
                let text = value.or_else(|| rest.next().map(|word| word.into_owned())).unwrap_or_default();
                match text.parse() {
                    Ok(limit) => flags.adopt_limit = Some(limit),
                    Err(_) => {
                        return Asked::Wrong(format!("invalid argument {text:?} for {name}: expected a number"));
                    }
                }
            }
            "--container-disk-dir" | "--hypervisor-catalogue" | "--uid" | "--v" | "-v" => {
                value = value.or_else(|| rest.next().map(|word| word.into_owned()));
                match (name.as_str(), value) {
                    ("--container-disk-dir", Some(path)) => flags.container_disk_dir = path.into(),
                    ("--hypervisor-catalogue", Some(path)) => {
                        flags.hypervisor_catalogue =
                            Some(path.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty());
                    }
                    ("--uid", Some(uid)) => flags.uid = uid,
                    ("--v" | "-v", Some(number)) => set_verbosity(&mut flags, &number),
                    _ => {}
                }
            }
            name if name.starts_with("--") => {
                if value.is_none() {
                    let _ = rest.next_if(|next| !next.starts_with('-'));
                }
            }
            _ => match letter_value {
                Some(number) => set_verbosity(&mut flags, &number),
                None => {
                    if name.starts_with('-') && value.is_none() {
                        let _ = rest.next_if(|next| !next.starts_with('-'));
                    }
                }
            },
        }
    }
    Asked::Run(flags)
}

fn set_verbosity(flags: &mut Flags, text: &str) {
    if let Ok(number) = text.parse() {
        flags.verbosity = number;
    }
}

/// The launcher's words: all but the monitor's own flags, in each of their forms.
pub fn for_launcher(words: Vec<OsString>) -> Vec<OsString> {
    let is = |word: &OsString, switch: &str| {
        word.as_encoded_bytes()
            .strip_prefix(switch.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    let mut passed = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == ADOPT_LIMIT {
            // Its value is the next word.
            let _ = words.next();
        } else if !is(&word, KEEP) && !is(&word, NO_ADOPT) && !is(&word, ADOPT_LIMIT) {
            passed.push(word);
        }
    }
    passed
}

/// The list of flags for a person.
pub const USAGE: &str = "\
Usage of virt-launcher-monitor:
      --adopt-limit int             launchers that may die in a row before their VM is ended (default 100)
      --container-disk-dir string   directory whose sockets are removed at the end (default \"/var/run/kubevirt/container-disks\")
      --keep-after-failure          stay alive after a failed run
      --no-adopt                    end the VM when its launcher dies, instead of starting a new launcher for it
      --uid string                  UID of the VirtualMachineInstance (passed on)
  -v, --v int                       log verbosity (default 2)

All other flags are passed on to virt-launcher.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn run(line: &str) -> (String, bool, i32) {
        match read(&words(line)) {
            Asked::Run(flags) => {
                (flags.container_disk_dir.to_string_lossy().into_owned(), flags.keep_after_failure, flags.verbosity)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_known_is_read_and_the_rest_passed_over() {
        let default = "/var/run/kubevirt/container-disks";
        let table = [
            ("", (default, false, 2)),
            ("--container-disk-dir /c --keep-after-failure -v 5", ("/c", true, 5)),
            ("--container-disk-dir=/c --keep-after-failure=true --v=3", ("/c", true, 3)),
            ("--keep-after-failure --keep-after-failure=false -v=4", (default, false, 4)),
            ("-v6", (default, false, 6)),
            // An unknown flag takes a word that does not look like a flag, and no other.
            ("--name --keep-after-failure", (default, true, 2)),
            ("--name --v 7", (default, false, 7)),
            ("--allow-emulation --container-disk-dir /c", ("/c", false, 2)),
            ("--name=x --container-disk-dir /c", ("/c", false, 2)),
            // A known flag takes whatever follows.
            ("--uid --keep-after-failure", (default, false, 2)),
            ("stray --v 3", (default, false, 3)),
            ("-x 1 --v 3", (default, false, 3)),
            ("-- --v 3", (default, false, 2)),
            ("--v many", (default, false, 2)),
            ("--container-disk-dir", (default, false, 2)),
        ];
        for (line, (dir, keep, verbosity)) in table {
            assert_eq!(run(line), (dir.to_owned(), keep, verbosity), "{line}");
        }
        let catalogue = Flags { hypervisor_catalogue: Some("/h".into()), ..Flags::default() };
        assert_eq!(read(&words("--hypervisor-catalogue /h")), Asked::Run(catalogue));
        assert_eq!(read(&words("--hypervisor-catalogue=")), Asked::Run(Flags::default()));
        for (line, no_adopt) in [("--name x --no-adopt", true), ("--no-adopt=false", false), ("--no-adopt=true", true)]
        {
            assert_eq!(read(&words(line)), Asked::Run(Flags { no_adopt, ..Flags::default() }), "{line}");
        }
        for line in ["--adopt-limit 3 --name x", "--name x --adopt-limit=3"] {
            let flags = Flags { adopt_limit: Some(3), ..Flags::default() };
            assert_eq!(read(&words(line)), Asked::Run(flags), "{line}");
            assert_eq!(for_launcher(words(line)), words("--name x"), "{line}");
        }
        assert!(matches!(read(&words("--adopt-limit=few")), Asked::Wrong(why) if why.contains("few")));
        assert_eq!(read(&words("--name x --help")), Asked::Help);
        assert!(matches!(read(&words("--keep-after-failure=maybe")), Asked::Wrong(why) if why.contains("maybe")));
    }

    #[test]
    fn launcher_gets_all_but_the_monitors_own() {
        let passed = for_launcher(words(
            "--name x --keep-after-failure --no-adopt --uid 1 --keep-after-failure=true --no-adopt=1 --keep-after-failures --v=2",
        ));
        assert_eq!(passed, words("--name x --uid 1 --keep-after-failures --v=2"));
    }
}
