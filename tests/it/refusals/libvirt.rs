//! A real libvirt and QEMU in a container of the image.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use crate::support::pod::podman;
use crate::support::{expect, wait_for};

/// The UUID of the documents, whatever their name.
const UUID: &str = "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11";

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Unconverted,
    /// It was defined and, if that was asked for, started.
    Taken,
    /// The define failed.
    NotDefined(String),
    /// The start failed.
    NotStarted(String),
}

/// A container that ends with this value.
pub struct Libvirt {
    name: String,
    dir: tempfile::TempDir,
}

impl Libvirt {
    pub fn start(image: &str) -> Libvirt {
        let name = format!("virt-launcher-refusals-{}", std::process::id());
        let dir = tempfile::Builder::new().prefix("vl").tempdir().unwrap();
        let share = format!("{}:/documents", dir.path().display());
        // As root, and allowed to make taps: it is the documents that are to be refused, not their surroundings.
        // A shell as the first process reaps the QEMUs that become its children; libvirt waits for them to be gone.
        let daemons = "mkdir -p /run/libvirt /run/kubevirt-private/u-1 /run/libvirt/empty-disks; chmod -R 777 /run/kubevirt-private; \
                       /usr/sbin/virtlogd -d; /usr/sbin/libvirtd -d; while sleep 1; do :; done";
        let mut command = podman();
        command.args(["run", "-d", "--rm", "--name", &name, "--network=none", "--user", "0:0", "-v", &share]);
        command.args(["--cap-add=NET_ADMIN", "--cap-add=SYS_NICE", "--device", "/dev/net/tun"]);
        command.args(["--entrypoint", r#"["/bin/sh"]"#, image, "-c", daemons]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let libvirt = Libvirt { name, dir };
        wait_for("libvirt", Duration::from_secs(60), || {
            let output = libvirt.exec("virsh list");
            expect(output.contains("State"), output)
        });
        libvirt
    }

    fn exec(&self, script: &str) -> String {
        let output = podman().args(["exec", &self.name, "sh", "-c", script]).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Defines each document, and starts those of `starts`; all of one name, one after the other.
    pub fn try_all(&self, documents: &[Option<String>], starts: &[bool]) -> Vec<Outcome> {
        let mut commands = String::new();
        let mut files = BTreeSet::new();
        for (index, document) in documents.iter().enumerate() {
            let Some(document) = document else { continue };
            if starts[index] {
                files.extend(sources(document));
            }
            fs::write(self.dir.path().join(format!("{index}.xml")), without_taps(document)).unwrap();
            writeln!(commands, "echo \"@@ {index} define\"\ndefine /documents/{index}.xml").unwrap();
            if starts[index] {
                writeln!(
                    commands,
                    "echo \"@@ {index} start\"\nstart ns_vm --paused\necho \"@@ {index} end\"\ndestroy ns_vm"
                )
                .unwrap();
            }
            writeln!(commands, "echo \"@@ {index} end\"\nundefine ns_vm --nvram\nundefine {UUID} --nvram").unwrap();
        }
        let mut script = String::from(
            "set -e\numask 0\nqemu-img create -q -f qcow2 /tmp/empty.qcow2 16M\ntruncate -s 16M /tmp/empty.img\n",
        );
        for file in files {
            let empty = if file.ends_with("qcow2") { "qcow2" } else { "img" };
            writeln!(script, "mkdir -p \"$(dirname '{file}')\"; cp /tmp/empty.{empty} '{file}'").unwrap();
        }
        fs::write(self.dir.path().join("files.sh"), script).unwrap();
        let made = self.exec("sh /documents/files.sh");
        assert_eq!(made, "");
        fs::write(self.dir.path().join("commands"), commands).unwrap();
        let said = self.exec("virsh < /documents/commands 2>&1");
        outcomes(documents.len(), &said)
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = podman().args(["rm", "-f", "-t", "0", &self.name]).output();
    }
}

/// Files of disks.
fn sources(document: &str) -> Vec<String> {
    let parts = document.split("<source file=\"").skip(1);
    parts
        .filter_map(|part| Some(part.split_once('"')?.0.to_owned()))
        .filter(|file| file.starts_with('/') && !file.contains('\''))
        .collect()
}

/// libvirt makes taps that are not named.
fn without_taps(document: &str) -> String {
    document.lines().filter(|line| !line.contains("<target dev=\"tap")).collect::<Vec<_>>().join("\n")
}

/// Reads what virsh said between the marks.
fn outcomes(count: usize, said: &str) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Unconverted; count];
    for part in said.split("@@ ").skip(1) {
        let (mark, text) = part.split_once('\n').unwrap_or((part, ""));
        let Some((index, step)) = mark.trim().split_once(' ') else { continue };
        let Ok(index) = index.parse::<usize>() else { continue };
        let error = text.split_once("error:").map(|(_, rest)| {
            let lines = rest.lines().map(|line| line.trim().trim_start_matches("error:").trim());
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("virsh #"));
            lines.skip(1).collect::<Vec<_>>().join(" / ")
        });
        match (step, error) {
            ("define", Some(error)) => outcomes[index] = Outcome::NotDefined(error),
            ("define", None) => outcomes[index] = Outcome::Taken,
            ("start", Some(error)) if outcomes[index] == Outcome::Taken => outcomes[index] = Outcome::NotStarted(error),
            _ => {}
        }
    }
    outcomes
}
