//! The launcher reaches its VM by `VmControl` alone, so that a hypervisor's own control is never passed by; and its errors
//! are its own, not those of the wire.

use std::fs;
use std::path::{Path, PathBuf};

/// What is asked of the connection itself, not of a domain.
const OF_THE_CONNECTION: [&str; 11] = [
    "clone",
    "close",
    "closed",
    "connect",
    "deadlines",
    "hypervisor_version",
    "in_background",
    "is_open",
    "libvirt_version",
    "uri",
    "warm_capabilities",
];
/// Files that speak to the guest's agent, whose door is `guest_agent::LibvirtAgent`.
const OF_THE_AGENT: [&str; 3] =
    ["src/launcher/guest/credentials.rs", "src/launcher/guest/ping.rs", "src/launcher/vm/guest_clock.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of the methods that `text` calls on a connection.
fn calls(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap());
    let joined: String = code.flat_map(str::split_whitespace).collect();
    let name = |rest: &str| -> String {
        rest.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '_').collect()
    };
    joined.split("connection.").skip(1).map(name).collect()
}

/// Where the core's error becomes the wire's: its one conversion, and the two halves of the door for the command service.
const OF_THE_WIRE: [&str; 3] =
    ["src/launcher/error/wire.rs", "src/launcher/driver/handle.rs", "src/launcher/driver/measures.rs"];

#[test]
fn launcher_has_an_error_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src/launcher"), &mut files);
    for file in files {
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        let is_word = |word: &&str| *word == "Failure";
        let names_it = text.split(|char: char| !char.is_alphanumeric() && char != '_').find(is_word).is_some();
        assert_eq!(names_it, OF_THE_WIRE.contains(&name.as_str()), "{name}: cmd::Failure is the wire's error");
    }
}

#[test]
fn launcher_calls_its_domain_by_vm_control_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src/launcher"), &mut files);
    let mut seen = 0;
    for file in files {
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        for call in calls(text.split("#[cfg(test)]").next().unwrap()) {
            seen += 1;
            let allowed = OF_THE_CONNECTION.contains(&call.as_str()) || OF_THE_AGENT.contains(&name.as_str());
            assert!(allowed, "{name}: connection.{call}(…) passes VmControl by");
        }
    }
    assert!(seen > 10, "the test looks at the wrong files: {seen} calls");
}

#[test]
fn calls_are_found_across_lines() {
    let text = "// No connection.\npub vm.connection.xml(&vm.domain)\n  connection\n    .define(xml)";
    assert_eq!(calls(text), ["xml", "define"]);
}
