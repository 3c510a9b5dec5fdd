//! What has to be so before the driver is asked to start a VM, because it would hang or keep the reason to itself; and
//! where the reason of a failed start is found (contract/cloud-hypervisor.md 3.1, 3.3, 11).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::rest;
use super::vmm::VmPaths;
use crate::domain::{Disk, DomainSpec};
use crate::files::{self, Folder, with_deadline};

/// The least version that can do all that the launcher asks of it.
const LEAST_VERSION: u32 = 40;
/// How long the VMM may take to print its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// How long a disk's storage may take to show the disk: storage that hangs is reported and does not block the launcher.
const INPUT_DEADLINE: Duration = Duration::from_secs(10);
/// Most of the VMM's output that is looked at for a reason.
const LOG_TAIL: u64 = 64 * 1024;
/// Lines of it that are reported where none is an error's body.
const LOG_LINES: usize = 3;

/// Everything that can be seen beforehand; the first thing that is not so.
pub(super) async fn before_start(place: &VmPaths, xml: &str) -> Result<(), String> {
    device(place)?;
    version(&emulator(place)?).await?;
    inputs(xml, INPUT_DEADLINE).await?;
    if let Some(folder) = place.log.as_deref().and_then(Path::parent) {
        make_folder(folder, place.owner).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    Ok(())
}

/// Without a device that it may open, the driver waits for the VMM for ever.
fn device(place: &VmPaths) -> Result<(), String> {
    let mut problems = Vec::new();
    for device in &place.devices {
        match usable_or_given(device, place.owner) {
            Ok(()) => return Ok(()),
            Err(error) => problems.push(format!("{}: {error}", device.display())),
        }
    }
    Err(format!("Cloud Hypervisor needs hardware virtualisation: {}", problems.join("; ")))
}

/// In a root pod virt-handler gives the device to root, and the VMM is another user: then it is passed on.
fn usable_or_given(device: &Path, owner: (u32, u32)) -> io::Result<()> {
    match usable(device, owner) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && nix::unistd::geteuid().is_root() => {
            std::os::unix::fs::chown(device, Some(owner.0), Some(owner.1)).map_err(|_| error)?;
            usable(device, owner)
        }
        result => result,
    }
}

/// Whether the VMM's user may read and write it, which is not always this process's user.
fn usable(device: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(device)?;
    let found = file.metadata()?;
    let mode = found.permissions().mode();
    let shift = if found.uid() == uid {
        6
    } else if found.gid() == gid {
        3
    } else {
        0
    };
    if uid != 0 && nix::unistd::geteuid().is_root() && (mode >> shift) & 0o6 != 0o6 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "mode {:o} of user {} and group {} does not let user {uid} use it",
                mode & 0o777,
                found.uid(),
                found.gid()
            ),
        ));
    }
    Ok(())
}

/// The executable that the driver takes: the first of this name in PATH.
fn emulator(place: &VmPaths) -> Result<PathBuf, String> {
    let name = place.command_prefixes.first().map(String::as_str).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".into());
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(executable)
        .ok_or_else(|| format!("the image has no executable {name} in {}", path.to_string_lossy()))
}

async fn version(emulator: &Path) -> Result<(), String> {
    let asked = tokio::process::Command::new(emulator).arg("--version").kill_on_drop(true).output();
    let output = match tokio::time::timeout(VERSION_DEADLINE, asked).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{} cannot be run: {error}", emulator.display())),
        Err(_) => return Err(format!("{} does not print its version", emulator.display())),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    match major(&said) {
        Some(major) if major >= LEAST_VERSION => Ok(()),
        Some(major) => Err(format!("{} is version {major}; at least {LEAST_VERSION} is needed", emulator.display())),
        None => Err(format!(
            "{} printed {:?}, which is not a version",
            emulator.display(),
            said.lines().next().unwrap_or("")
        )),
    }
}

/// `cloud-hypervisor v53.0.0`, also with a branch's name before the version.
fn major(said: &str) -> Option<u32> {
    let version = said.strip_prefix("cloud-hypervisor ")?.lines().next()?;
    let version = version.rsplit('/').next()?.trim_start_matches('v');
    version.split(['.', '-']).next()?.trim().parse().ok()
}

/// Kernel, initrd and disks: the driver would say only that the VM cannot be created.
async fn inputs(xml: &str, deadline: Duration) -> Result<(), String> {
    let domain = DomainSpec::from_xml(xml).map_err(|error| format!("libvirt's XML cannot be read: {error}"))?;
    let is_raw = |disk: &Disk| disk.driver.as_ref().is_some_and(|driver| driver.type_ == "raw");
    let disks = domain.devices.disks.iter().map(|disk| ("disk", &disk.source.file, is_raw(disk)));
    let others = [("kernel", &domain.os.kernel, false), ("initrd", &domain.os.initrd, false)];
    for (what, path, raw) in others.into_iter().chain(disks).filter(|(_, path, _)| !path.is_empty()) {
        let file = PathBuf::from(path);
        match with_deadline(deadline, move || input(what, &file, raw)).await {
            Ok(looked) => looked?,
            Err(error) => return Err(format!("the {what} {path} cannot be opened: {error}")),
        }
    }
    Ok(())
}

fn input(what: &str, path: &Path, raw: bool) -> Result<(), String> {
    let file = open_input(path).map_err(|error| format!("the {what} {} cannot be opened: {error}", path.display()))?;
    let format = if raw { looks_like(file) } else { Ok(None) };
    match format {
        Ok(None) => Ok(()),
        Ok(Some(format)) => Err(format!(
            "the raw disk {} begins or ends like a {format} image, and Cloud Hypervisor would take it for one",
            path.display()
        )),
        Err(error) => Err(format!("the {what} {} cannot be read: {error}", path.display())),
    }
}

/// Opens what a VM can have as a disk or boot from; opening anything else could block.
fn open_input(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_block_device() {
        true => Ok(file),
        false => Err(io::Error::other("it is neither a regular file nor a block device")),
    }
}

/// The image format that the VMM, which is given none, would guess for something that is raw. A guest that writes the
/// beginning of such an image onto its disk must not decide how the disk is opened the next time: formats can name other
/// files.
fn looks_like(mut file: File) -> io::Result<Option<&'static str>> {
    let mut start = [0; 8];
    let length = file.seek(SeekFrom::End(0))?;
    if length < 512 {
        return Ok(None);
    }
    file.rewind()?;
    file.read_exact(&mut start)?;
    let mut footer = [0; 8];
    file.seek(SeekFrom::End(-512))?;
    file.read_exact(&mut footer)?;
    Ok(match (&start, &footer) {
        ([b'Q', b'F', b'I', 0xfb, ..], _) => Some("qcow2"),
        (b"vhdxfile", _) => Some("VHDX"),
        (_, b"conectix") => Some("VHD"),
        _ => None,
    })
}

/// Makes the folder and those above it for the daemon's user, who makes further ones beside it.
fn make_folder(folder: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    // From the second one on that user could lay links.
    while let Some(path) = missing.pop() {
        let (folder, made) = Folder::make(path, 0o755)?;
        if made && nix::unistd::geteuid().is_root() {
            std::os::unix::fs::fchown(folder.itself()?, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Frees the daemon's thread that waits for a VMM to open the FIFO, and the domain with it.
pub(super) fn release_daemon(fifo: &Path) {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(fifo);
    if let Err(error) = opened {
        tracing::warn!("{}: no process waits for it: {error}", fifo.display());
    }
}

/// A place in the VMM's log, before a start.
pub(super) struct LogMark<'a> {
    log: Option<&'a Path>,
    from: u64,
}

impl<'a> LogMark<'a> {
    /// What is written from now on.
    pub(super) fn at_end_of(log: Option<&'a Path>) -> Self {
        let from = log.and_then(open_log).and_then(|log| log.metadata().ok()).map_or(0, |found| found.len());
        LogMark { log, from }
    }

    /// What the VMM, or libvirt on its behalf, wrote since.
    pub(super) fn reason(&self) -> Option<String> {
        let mut file = open_log(self.log?)?;
        let length = file.metadata().ok()?.len();
        // A log that was replaced is new from its beginning.
        let from = if length < self.from { 0 } else { self.from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_TAIL)))).ok()?;
        let mut text = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut text).ok()?;
        reason_in(&String::from_utf8_lossy(&text))
    }
}

/// The VMM's log, which is in a directory of the VMM's user; what else is there is none.
fn open_log(path: &Path) -> Option<File> {
    let (folder, name) = files::split(path).ok()?;
    Folder::open(folder).ok()?.file(name, OFlag::O_RDONLY, Mode::empty()).ok()
}

/// An answer's body, a JSON list of texts, if there is one; else lines about errors; else the last line.
fn reason_in(text: &str) -> Option<String> {
    let body = text.rfind("[\"").and_then(|at| text.get(at..)).and_then(|rest| {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Vec<String>>();
        Some(values.next()?.ok()?.join(": "))
    });
    let told = |line: &&str| {
        let lower = line.to_ascii_lowercase();
        lower.contains("error") || lower.contains("panicked") || lower.contains("failed")
    };
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    body.filter(|body| !body.is_empty()).or_else(|| {
        let errors: Vec<&str> = lines().filter(told).collect();
        let last = errors.get(errors.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("; ");
        Some(last).filter(|last| !last.is_empty()).or_else(|| lines().next_back().map(rest::reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_driver_reads_them() {
        for (said, expected) in [
            ("cloud-hypervisor v53.0.0\nMigration Protocol Versions: 0\n", Some(53)),
            ("cloud-hypervisor v40.0-12-gabc\n", Some(40)),
            ("cloud-hypervisor release/v41.0\n", Some(41)),
            ("qemu 9\n", None),
            ("", None),
        ] {
            assert_eq!(major(said), expected, "{said}");
        }
    }

    #[test]
    fn reasons_are_the_body_else_errors_else_the_last_line() {
        let body = "HTTP 500\n[\"Error from API\",\"The VM could not boot\",\"no such disk\"]\nbye\n";
        assert_eq!(reason_in(body).unwrap(), "Error from API: The VM could not boot: no such disk");
        let errors = "start\n1.0s ERROR: one\nfine\n2.0s ERROR: two\n";
        assert_eq!(reason_in(errors).unwrap(), "1.0s ERROR: one; 2.0s ERROR: two");
        assert_eq!(reason_in("first\nlast\n\n").unwrap(), "last");
        assert_eq!(reason_in("\n"), None);
    }

    #[test]
    fn only_what_came_after_the_mark_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("d.log");
        assert_eq!(LogMark::at_end_of(Some(&log)).reason(), None);
        std::fs::write(&log, "old error\n").unwrap();
        let mark = LogMark::at_end_of(Some(&log));
        assert_eq!(mark.reason(), None);
        std::fs::write(&log, "old error\nnew error\n").unwrap();
        assert_eq!(mark.reason().unwrap(), "new error");
        std::fs::write(&log, "new\n").unwrap();
        assert_eq!(mark.reason().unwrap(), "new", "a log that was replaced");
        let secret = folder.path().join("secret");
        std::fs::rename(&log, &secret).unwrap();
        std::os::unix::fs::symlink(&secret, &log).unwrap();
        assert_eq!(mark.reason(), None, "a link");
        std::fs::remove_file(&log).unwrap();
        nix::unistd::mkfifo(&log, Mode::S_IRWXU).unwrap();
        assert_eq!(mark.reason(), None, "it has no writer");
    }

    #[tokio::test]
    async fn missing_inputs_are_named() {
        let xml =
            "<domain type='kvm'><name>d</name><os><type>hvm</type><kernel>/nonexistent/vmlinuz</kernel></os></domain>";
        let error = inputs(xml, INPUT_DEADLINE).await.unwrap_err();
        assert!(error.contains("kernel /nonexistent/vmlinuz"), "{error}");
        let error = usable(Path::new("/nonexistent/kvm"), (107, 107)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    fn disk_xml(disk: &Path, kind: &str) -> String {
        format!(
            "<domain type='kvm'><name>d</name><devices><disk type='file' device='disk'><driver name='qemu' type='{kind}'/>\
             <source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            disk.display()
        )
    }

    #[tokio::test]
    async fn raw_disk_that_looks_like_an_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        let checked = async |content: &[u8], kind: &str| {
            std::fs::write(&disk, content).unwrap();
            inputs(&disk_xml(&disk, kind), INPUT_DEADLINE).await
        };
        let image = |start: &[u8], footer: &[u8]| {
            let mut image = vec![0; 4096];
            image[..start.len()].copy_from_slice(start);
            image[4096 - 512..][..footer.len()].copy_from_slice(footer);
            image
        };
        for (image, said) in
            [(image(b"QFI\xfb", b""), "qcow2"), (image(b"vhdxfile", b""), "VHDX"), (image(b"", b"conectix"), "VHD")]
        {
            let error = checked(&image, "raw").await.unwrap_err();
            assert!(error.contains(said) && error.contains("disk.img"), "{error}");
        }
        assert_eq!(checked(&image(b"QFI\xfb", b""), "qcow2").await, Ok(()), "that is what it is");
        for image in [image(b"QFI", b"conect"), image(b"", b""), vec![0; 3]] {
            assert_eq!(checked(&image, "raw").await, Ok(()));
        }
    }

    #[tokio::test]
    async fn disk_that_blocks_whoever_opens_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for (disk, kind) in [(pipe.as_path(), "raw"), (&pipe, "qcow2"), (folder.path(), "raw")] {
            let error = inputs(&disk_xml(disk, kind), INPUT_DEADLINE).await.unwrap_err();
            assert!(error.contains("neither a regular file nor a block device"), "{error}");
        }
    }

    #[test]
    fn waiting_daemon_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("d-event-monitor-fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let path = fifo.clone();
        let waiting = std::thread::spawn(move || std::fs::File::open(path).map(drop));
        // The other thread may not be there yet; then the attempt is repeated.
        while !waiting.is_finished() {
            release_daemon(&fifo);
            std::thread::yield_now();
        }
        waiting.join().unwrap().unwrap();
    }
}
