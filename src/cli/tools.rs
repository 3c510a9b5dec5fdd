//! Command lines of the helper programs (contract/lifecycle.md 11).

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::pflag::{Flag, Mistake, Parsed, Target, parse, usage};
use super::say;
use crate::logging::{self, DEFAULT_VERBOSITY};
use crate::tools::virt_freezer::{self, Deed, Freezer};
use crate::tools::virt_probe::{self, Probe, Question};
use crate::tools::{container_disk, virt_tail};

/// A command line that makes no sense, for the programs that have Go's flags.
const USAGE: u8 = 2;

/// What is left to do after the flags were read.
enum Ask {
    Run,
    End(ExitCode),
}

/// Reads flags; prints the list of them on `--help`, and mistakes that `matters` does not excuse.
fn read(program: &str, words: &[OsString], flags: &mut [Flag<'_>], wrong: u8, matters: fn(&Mistake) -> bool) -> Ask {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let help = usage(program, flags);
    match parse(&words, flags) {
        Parsed::Help => {
            say(std::io::stdout(), &help);
            Ask::End(ExitCode::SUCCESS)
        }
        Parsed::Done(mistakes) => {
            let mistakes: Vec<String> = mistakes
                .iter()
                .filter(|mistake| matters(mistake))
                .map(|mistake| format!("{program}: {mistake}\n"))
                .collect();
            if mistakes.is_empty() {
                return Ask::Run;
            }
            say(std::io::stderr(), &(help + &mistakes.concat()));
            Ask::End(ExitCode::from(wrong))
        }
    }
}

/// A mistake that the flags alone do not show.
fn wrong(program: &str, mistake: &str, code: u8) -> ExitCode {
    say(std::io::stderr(), &format!("{program}: {mistake}\n"));
    ExitCode::from(code)
}

fn verbosity(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(DEFAULT_VERBOSITY)
}

/// `container-disk`, which reads its flags itself: it is a program of its own as well.
pub(super) fn container_disk(words: &[OsString]) -> ExitCode {
    // Words of a command line have no byte 0.
    let words: Vec<CString> = words.iter().filter_map(|word| CString::new(word.as_bytes()).ok()).collect();
    ExitCode::from(container_disk::run(words.iter().map(CString::as_c_str)))
}

/// `virt-tail`: unknown flags are ignored.
pub(super) fn virt_tail(words: &[OsString]) -> ExitCode {
    const PROGRAM: &str = "virt-tail";
    let (mut logfile, mut level) = (None, i64::from(DEFAULT_VERBOSITY));
    let mut flags =
        [Flag::new("logfile", Target::OptionalPath(&mut logfile), "the file to follow"), Flag::verbosity(&mut level)];
    let matters = |mistake: &Mistake| match mistake {
        Mistake::Unknown(_) | Mistake::Unexpected(_) => false,
        Mistake::NoValue(_) | Mistake::Invalid { .. } | Mistake::Environment { .. } => true,
    };
    if let Ask::End(code) = read(PROGRAM, words, &mut flags, 1, matters) {
        return code;
    }
    let Some(logfile) = logfile else { return wrong(PROGRAM, "--logfile is missing", 1) };
    logging::init(PROGRAM, verbosity(level));
    match virt_tail::run(&logfile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = %error, "cannot print the lines of {}", logfile.display());
            ExitCode::FAILURE
        }
    }
}

/// `virt-probe`: words after `--` are the command's.
pub(super) fn virt_probe(words: &[OsString]) -> ExitCode {
    const PROGRAM: &str = "virt-probe";
    let own = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (words, arguments) = words.split_at_checked(own).unwrap_or((words, &[]));
    let (mut socket, mut domain) = (PathBuf::from("/var/run/kubevirt/sockets/launcher-sock"), String::new());
    let (mut command, mut ping, mut seconds) = (String::new(), false, 1);
    let (mut profile, mut level) = (None, i64::from(DEFAULT_VERBOSITY));
    let mut flags = [
        Flag::new("socket", Target::Path(&mut socket), "the launcher's socket"),
        Flag::new("domainName", Target::Text(&mut domain), "libvirt's name of the VM"),
        Flag::new("command", Target::Text(&mut command), "what the guest is to run"),
        Flag::new("timeoutSeconds", Target::Int(&mut seconds), "how long the guest may take"),
        Flag::new("guestAgentPing", Target::Bool(&mut ping), "ask only whether the guest agent answers"),
        Flag::new("memProfile", Target::OptionalPath(&mut profile), "not used"),
        Flag::verbosity(&mut level),
    ];
    if let Ask::End(code) = read(PROGRAM, words, &mut flags, USAGE, |_| true) {
        return code;
    }
    let Ok(timeout_seconds) = i32::try_from(seconds) else {
        return wrong(PROGRAM, &Mistake::invalid("timeoutSeconds", seconds, "out of range").to_string(), USAGE);
    };
    let question = match (ping, command.is_empty()) {
        (true, _) => Question::Ping,
        (false, false) => {
            let arguments = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            Question::Run(command, arguments)
        }
        (false, true) => return wrong(PROGRAM, "neither --command nor --guestAgentPing is given", USAGE),
    };
    logging::init(PROGRAM, verbosity(level));
    // The kubelet sees the guest's exit code; what does not fit a process's is a failure all the same.
    ExitCode::from(
        u8::try_from(virt_probe::run(Probe { socket, domain, timeout_seconds, question })).unwrap_or(u8::MAX),
    )
}

/// `virt-freezer`: a bad flag is exit code 2, anything else that is missing 1.
pub(super) fn virt_freezer(words: &[OsString]) -> ExitCode {
    const PROGRAM: &str = "virt-freezer";
    let (mut freeze, mut unfreeze, mut seconds) = (false, false, 300);
    let (mut name, mut namespace, mut level) = (String::new(), String::new(), i64::from(DEFAULT_VERBOSITY));
    let mut socket = PathBuf::from(virt_freezer::SOCKET);
    let mut flags = [
        Flag::new("freeze", Target::Bool(&mut freeze), "freeze the file systems"),
        Flag::new("unfreeze", Target::Bool(&mut unfreeze), "thaw them"),
        Flag::new("name", Target::Text(&mut name), "the VMI"),
        Flag::new("namespace", Target::Text(&mut namespace), "its namespace"),
        Flag::new("unfreezeTimeoutSeconds", Target::Int(&mut seconds), "thaw by itself after so long; 0: never"),
        Flag::new("socket", Target::Path(&mut socket), "the launcher's socket"),
        Flag::verbosity(&mut level),
    ];
    if let Ask::End(code) = read(PROGRAM, words, &mut flags, USAGE, |_| true) {
        return code;
    }
    let Ok(unfreeze_timeout_seconds) = i32::try_from(seconds) else {
        return wrong(PROGRAM, &Mistake::invalid("unfreezeTimeoutSeconds", seconds, "out of range").to_string(), USAGE);
    };
    let deed = match (freeze, unfreeze) {
        (true, _) => Deed::Freeze { unfreeze_timeout_seconds },
        (false, true) => Deed::Unfreeze,
        (false, false) => return wrong(PROGRAM, "neither --freeze nor --unfreeze is given", 1),
    };
    if name.is_empty() || namespace.is_empty() {
        return wrong(PROGRAM, "--name and --namespace are needed", 1);
    }
    logging::init("freezer", verbosity(level));
    match virt_freezer::run(&Freezer { socket, name, namespace, deed }) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
