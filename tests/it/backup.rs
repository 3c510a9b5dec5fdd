//! Backups of a real guest's disk whose changes are tracked: pushed whole, pushed from a checkpoint on, pulled, exported out
//! of the pod and aborted, and a checkpoint that is redefined.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::export_server::{ExportServer, Fetcher, NAME};
use crate::support::pod::{Pod, demo_vmi, image, text};
use crate::support::processes::{children, owner, send};
use crate::support::{expect, wait_for};
use http::StatusCode;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use virt_launcher::proto::nbd::{MapRequest, ReadRequest};

/// For what QEMU does on a busy machine.
const DONE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;
/// Bytes of the volume.
const SIZE: u64 = 24 * MIB;
/// A cluster of the overlay and of what is copied from it.
const CLUSTER: u64 = 256 << 10;
/// What a bit of libvirt's bitmaps stands for.
const GRAIN: u64 = 64 << 10;
/// Where virt-handler has mounted the claim that backups go to, in the pod.
const TARGET: &str = "/var/run/kubevirt/backups";

/// The demo's VMI with a claim whose changes are tracked, as far as `state` says.
fn vmi(state: &str) -> Value {
    let mut vmi: Value = serde_norway::from_str(&demo_vmi()).unwrap();
    *vmi.pointer_mut("/spec/domain/firmware/kernelBoot/kernelArgs").unwrap() =
        json!("console=ttyS0 no_timer_check quiet");
    let push = |vmi: &mut Value, list: &str, value| vmi.pointer_mut(list).unwrap().as_array_mut().unwrap().push(value);
    let disk = json!({"name": "data", "serial": "data1", "disk": {"bus": "virtio"}});
    push(&mut vmi, "/spec/domain/devices/disks", disk);
    push(&mut vmi, "/spec/volumes", json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}));
    vmi["status"]["changedBlockTracking"] = json!({"state": state});
    vmi["status"]["volumeStatus"] = json!([{"name": "data", "target": "", "persistentVolumeClaimInfo": {
        "capacity": {"storage": "24Mi"}, "requests": {"storage": "24Mi"}, "filesystemOverhead": "0"}}]);
    vmi
}

/// A folder or file of the VM's user.
fn own(path: &Path) {
    chown(path, Some(107), Some(107)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o775)).unwrap();
}

fn succeeded(output: &Output, pod: &Pod) {
    assert!(output.status.success(), "{}\n{}", text(output), pod.log());
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    text(output)
}

/// A backup's name and start.
fn which(name: &str) -> Vec<String> {
    ["--name", name, "--at", "2026-01-02T03:04:05Z"].map(str::to_owned).to_vec()
}

/// Where the file of a backup is, by the documented names.
fn file_of(pod: &Pod, name: &str) -> PathBuf {
    pod.volume("public/backups/demo").join(checkpoint(name)).join(format!("{name}-data.qcow2"))
}

fn checkpoint(name: &str) -> String {
    format!("{name}-2026-01-02_03-04-05")
}

fn start(pod: &Pod, name: &str, more: &[&str]) -> Output {
    let which = which(name);
    let which: Vec<&str> = which.iter().map(String::as_str).collect();
    with_vmi(pod, &vmi("Enabled"), &[&["backup", "start"][..], &which, more].concat())
}

fn abort(pod: &Pod, name: &str) -> Output {
    let which = which(name);
    let which: Vec<&str> = which.iter().map(String::as_str).collect();
    pod.ctl(&[&["backup", "abort"][..], &which].concat())
}

fn with_vmi(pod: &Pod, vmi: &Value, words: &[&str]) -> Output {
    let file = pod.volume("public").join("vmi.json");
    fs::write(&file, vmi.to_string()).unwrap();
    pod.ctl(&[words, &["--vmi", file.to_str().unwrap(), TARGET]].concat())
}

/// What virt-handler is told of the backup.
fn told(pod: &Pod) -> Value {
    pod.domain().pointer("/Spec/Metadata/KubeVirt/Backup").cloned().unwrap_or_default()
}

fn wait_completed(pod: &Pod, name: &str) -> Value {
    wait_for("end of the backup", DONE, || {
        let backup = told(pod);
        expect(backup["Name"] == name && backup["Completed"] == true, &backup).map(|()| backup)
    })
}

fn qemu_img(words: &[&str]) -> String {
    let output = Command::new("qemu-img").args(words).output().unwrap();
    assert!(output.status.success(), "qemu-img {words:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The volume's content as the backup's file has it.
fn content(pod: &Pod, file: &Path, name: &str) -> Vec<u8> {
    let raw = pod.volume("public").join(format!("{name}.raw"));
    qemu_img(&["convert", "-O", "raw", file.to_str().unwrap(), raw.to_str().unwrap()]);
    fs::read(raw).unwrap()
}

fn words_at(content: &[u8], at: u64) -> &[u8] {
    let at = usize::try_from(at).unwrap();
    content[at..].split(|byte| *byte == b'\n').next().unwrap()
}

/// What a pulled backup serves: the offsets of what `map` finds with `flag`.
fn served(pod: &Pod, bitmap: &str, flag: impl Fn(&Value) -> bool) -> Vec<(u64, u64)> {
    let socket = pod.volume("public/sockets").join("backup-nbd-sock");
    let mut image = format!("driver=nbd,export=data,server.type=unix,server.path={}", socket.display());
    if !bitmap.is_empty() {
        image += &format!(",x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}");
    }
    let map = qemu_img(&["map", "--output", "json", "--image-opts", &image]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let parts = map.as_array().unwrap().iter().filter(|part| flag(part));
    parts.map(|part| (part["start"].as_u64().unwrap(), part["length"].as_u64().unwrap())).collect()
}

/// A server that the pod's loopback interface leads to: the pod has no other.
async fn export_server(pod: &Pod) -> ExportServer {
    let network = fs::File::open(format!("/proc/{}/ns/net", pod.pid_1())).unwrap();
    // A thread of its own enters the pod's network; the socket stays there.
    let bound = std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    });
    let listener = bound.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    // Another name than in its certificate, and one that has to be looked up.
    ExportServer::on(tokio::net::TcpListener::from_std(listener).unwrap(), "localhost")
}

/// Has the backup exported to `server`.
fn export(pod: &Pod, name: &str, server: &ExportServer) -> Output {
    let file = |name: &str, pem: &str| {
        let path = pod.volume("public").join(name);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cert = file("client.crt", &server.client.certificate);
    let (key, ca) = (file("client.key", &server.client.key), file("ca.crt", &server.authority));
    let (address, which) = (server.address(), which(name));
    let which: Vec<&str> = which.iter().map(String::as_str).collect();
    let to = ["--server", &address, "--server-name", NAME, "--cert", &cert, "--key", &key, "--ca", &ca];
    pod.ctl(&[&["backup", "export"][..], &which, &to].concat())
}

/// What has changed, and the volume's content, as the server gets them.
async fn fetched(fetcher: &mut Fetcher, bitmap: &str) -> (Vec<(u64, u64)>, Vec<u8>) {
    let (export_name, bitmap_name) = ("data".to_owned(), bitmap.to_owned());
    let request = MapRequest { export_name: export_name.clone(), bitmap_name, offset: 0, length: 0 };
    let mut map = fetcher.client.map(request).await.unwrap().into_inner();
    let mut dirty = Vec::new();
    while let Some(message) = map.message().await.unwrap() {
        let changed = message.extents.iter().filter(|it| it.description == "dirty");
        dirty.extend(changed.map(|it| (it.offset, it.length)));
    }
    let request = ReadRequest { export_name, offset: 0, length: 0 };
    let mut read = fetcher.client.read(request).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(chunk) = read.message().await.unwrap() {
        content.extend(chunk.data);
    }
    (dirty, content)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
#[allow(clippy::too_many_lines, reason = "one VM, one chain of backups")]
fn backups_hold_what_the_guest_wrote_and_go_on_from_checkpoints() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    pod.provide_disks();
    let claim = pod.volume("private").join("vmi-disks/data");
    fs::create_dir_all(&claim).unwrap();
    fs::File::create(claim.join("disk.img")).unwrap().set_len(SIZE).unwrap();
    let backups = pod.volume("public/backups");
    fs::create_dir(&backups).unwrap();
    for path in [&claim, &claim.join("disk.img"), &backups] {
        own(path);
    }
    succeeded(&pod.sync(&vmi("Initializing").to_string()), &pod);
    let mut guest = pod.console();
    let disk = guest.wait("grep -lx data1 /sys/block/vd*/serial");
    let disk = format!("/dev/{}", disk.split('/').nth(3).unwrap());
    let mut write = |words: &str, at: u64| {
        guest.run(&format!("echo {words} | dd of={disk} bs=64k seek={} conv=notrunc 2>/dev/null && sync", at >> 16));
    };

    // Everything, while the agent holds the guest's file systems still.
    wait_for("the guest agent", DONE, || expect(pod.ctl(&["guest-ping"]).status.success(), "it does not answer"));
    write("first", 0);
    succeeded(&start(&pod, "full", &[]), &pod);
    let full = wait_completed(&pod, "full");
    assert_eq!(
        full,
        json!({"Name": "full", "Mode": "Push", "SkipQuiesce": false, "StartTimestamp": "2026-01-02T03:04:05Z",
            "EndTimestamp": full["EndTimestamp"], "Completed": true, "Failed": false, "BackupMsg": "",
            "CheckpointName": checkpoint("full"), "Volumes": r#"[{"volumeName":"data"}]"#, "QuiesceStatus": "Succeeded"})
    );
    assert!(full["EndTimestamp"].is_string(), "{full}");
    let copy = content(&pod, &file_of(&pod, "full"), "full");
    assert_eq!((copy.len() as u64, words_at(&copy, 0)), (SIZE, &b"first"[..]));
    let thawed = pod.ctl(&["exec", "/bin/sh", "-c", "echo thawed"]);
    assert!(text(&thawed).contains("thawed"), "an agent that holds file systems refuses to execute: {}", text(&thawed));

    // What cannot be.
    assert!(refused(&start(&pod, "full", &[])).contains("already executed, finished at "));
    let unknown = ["--incremental", "no-such-checkpoint"];
    assert!(refused(&start(&pod, "odd", &unknown)).contains("virError(Code="));
    assert!(!file_of(&pod, "odd").parent().unwrap().exists(), "nothing is left of a backup that did not begin");
    assert!(refused(&abort(&pod, "full")).contains("failed to abort backup: "));
    let untracked = with_vmi(&pod, &vmi("Initializing"), &["backup", "start", "--name", "early"]);
    assert!(refused(&untracked).contains("Backup failed ChangedBlockTracking is not enabled"));

    // What has changed since, and nothing else.
    write("second", 8 * MIB);
    succeeded(&start(&pod, "more", &["--skip-quiesce", "--incremental", &checkpoint("full")]), &pod);
    assert_eq!(wait_completed(&pod, "more")["QuiesceStatus"], "Skipped");
    // Over the pod's own image by name, which the file is meant to be looked at without.
    let file = file_of(&pod, "more");
    let alone = json!({"driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": file}});
    let map: Value = serde_json::from_str(&qemu_img(&["map", "--output", "json", &format!("json:{alone}")])).unwrap();
    let copied: Vec<_> = map.as_array().unwrap().iter().filter(|part| part["data"] == true).collect();
    assert!(matches!(copied.as_slice(), [part] if part["start"] == 8 * MIB && part["length"] == CLUSTER), "{map}");
    let offset = usize::try_from(copied[0]["offset"].as_u64().unwrap()).unwrap();
    assert!(fs::read(file).unwrap()[offset..].starts_with(b"second\n"));

    // The checkpoint is forgotten, as by a launcher of another pod, and redefined from the image's bitmap.
    write("third", 16 * MIB);
    let redefine = |name: &str| pod.ctl(&["redefine-checkpoint", "--name", name, "--at", "2026-01-02T03:04:05Z"]);
    let unknown = refused(&redefine("no-such-checkpoint"));
    assert!(unknown.contains("no disks found with checkpoint bitmap no-such-checkpoint"), "{unknown}");
    for name in ["more", "full"] {
        pod.virsh(&["checkpoint-delete", "default_demo", &checkpoint(name), "--metadata"]);
    }
    assert!(refused(&start(&pod, "odd", &["--incremental", &checkpoint("more")])).contains("virError(Code="));
    succeeded(&redefine(&checkpoint("full")), &pod);
    succeeded(&redefine(&checkpoint("more")), &pod);

    // Served, until virt-handler has fetched it.
    succeeded(&start(&pod, "pull", &["--pull", "--incremental", &checkpoint("more")]), &pod);
    let dirty = served(&pod, &checkpoint("pull"), |part| part["data"] == false);
    assert_eq!(dirty, [(16 * MIB, GRAIN)], "what has changed since the checkpoint");
    write("later", 0);
    let socket = pod.volume("public/sockets").join("backup-nbd-sock");
    let raw = pod.volume("public").join("pull.raw");
    let source = format!("nbd+unix:///data?socket={}", socket.display());
    qemu_img(&["convert", "-f", "raw", "-O", "raw", &source, raw.to_str().unwrap()]);
    let copy = fs::read(raw).unwrap();
    for (at, words) in [(0, &b"first"[..]), (8 * MIB, b"second"), (16 * MIB, b"third")] {
        assert_eq!(words_at(&copy, at), words, "the disk as it was when the backup began");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(export_server(&pod));
    assert!(refused(&export(&pod, "other", &server)).contains("requested backup differs from ongoing one"));
    succeeded(&export(&pod, "pull", &server), &pod);
    let accepted =
        async { tokio::time::timeout(DONE, server.accept(StatusCode::OK)).await.expect("no launcher connects") };
    let mut fetcher = runtime.block_on(accepted);
    succeeded(&export(&pod, "pull", &server), &pod);
    let (dirty, exported) = runtime.block_on(fetched(&mut fetcher, &checkpoint("pull")));
    assert_eq!(dirty, [(16 * MIB, GRAIN)], "what has changed since the checkpoint");
    assert!(exported == copy, "the server gets what the socket serves");
    succeeded(&start(&pod, "pull", &["--pull", "--incremental", &checkpoint("more")]), &pod);
    assert!(
        refused(&start(&pod, "other", &[])).contains("backup pull already in progress, need to wait for completion")
    );
    assert!(refused(&abort(&pod, "other")).contains("requested backup differs from ongoing one"));
    succeeded(&abort(&pod, "pull"), &pod);
    let pull = wait_completed(&pod, "pull");
    assert_eq!((&pull["Mode"], &pull["Failed"], &pull["BackupMsg"]), (&json!("Pull"), &json!(false), &json!("")));
    assert!(!socket.exists(), "nothing is served any more");
    let closed = async { tokio::time::timeout(DONE, fetcher.closed()).await };
    runtime.block_on(closed).expect("the export has ended with the backup");
    assert!(refused(&export(&pod, "pull", &server)).contains("backup already completed"));

    slow_beginning(&pod);
    between_launchers(&pod);
}

/// libvirt that waits for QEMU has not failed.
fn slow_beginning(pod: &Pod) {
    let (qemu, _) = children(pod.pid_1()).into_iter().find(|(_, comm)| comm.starts_with("qemu-system")).unwrap();
    let pull = ["--pull", "--skip-quiesce"];
    send(qemu, Signal::SIGSTOP);
    let said = refused(&start(pod, "slow", &pull));
    succeeded(&start(pod, "slow", &pull), pod);
    send(qemu, Signal::SIGCONT);
    let socket = pod.volume("public/sockets").join("backup-nbd-sock");
    wait_for("the backup", DONE, || expect(socket.exists(), told(pod)));
    // QEMU makes the socket before libvirt's call returns to the launcher.
    wait_for("the backup's record", DONE, || expect(told(pod)["Name"] == "slow", told(pod)));
    let slow = told(pod);
    assert_eq!((&slow["Name"], &slow["QuiesceStatus"]), (&json!("slow"), &json!("Skipped")), "{slow}");
    wait_for("its end", DONE, || {
        let aborted = abort(pod, "slow");
        expect(aborted.status.success(), text(&aborted))
    });
    assert_eq!(wait_completed(pod, "slow")["Failed"], false);
    assert!(said.contains("its beginning goes on"), "{said}");
}

/// A backup outlives its launcher; the end of one that does not is noted by the next.
fn between_launchers(pod: &Pod) {
    let pull = ["--pull", "--skip-quiesce"];
    succeeded(&start(pod, "kept", &pull), pod);
    pod.replace_launcher();
    let doubled = refused(&start(pod, "other", &pull));
    assert!(doubled.contains("backup kept already in progress"), "{doubled}");
    succeeded(&abort(pod, "kept"), pod);
    assert_eq!(wait_completed(pod, "kept")["Failed"], false);

    succeeded(&start(pod, "missed", &pull), pod);
    // libvirt tells the end to a launcher that does not hear it any more.
    send(owner(pod), Signal::SIGSTOP);
    pod.virsh(&["domjobabort", "default_demo"]);
    wait_for("its end", DONE, || {
        let job = pod.virsh(&["domjobinfo", "default_demo"]);
        expect(job.contains("None"), job)
    });
    pod.replace_launcher();
    let missed = wait_completed(pod, "missed");
    assert_eq!(missed["Failed"], true, "{missed}");
}
