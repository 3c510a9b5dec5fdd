//! The guest agent as Debian ships it, in a real guest in the real image: what the launcher learns from it, what it asks
//! of it, and what happens when it goes away.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::pod::{Pod, demo_vmi, image, text};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for};
use serde_json::Value;

/// For what a guest in emulation does on a busy machine.
const GUEST: Duration = Duration::from_secs(180);

/// The demo's VMI with a file system that can be frozen.
fn vmi() -> String {
    let vmi = demo_vmi();
    let mount = "mke2fs /dev/vdc >/dev/null && mkdir -p /data && mount -t ext4 /dev/vdc /data && touch /data/file";
    let user_data = "#!/bin/sh\n";
    assert!(vmi.contains(user_data));
    let vmi = vmi.replace(user_data, &format!("{user_data}          {mount}; echo mounted $?\n"));
    let credentials = "  accessCredentials:
    - sshPublicKey:
        source: {secret: {secretName: keys}}
        propagationMethod: {qemuGuestAgent: {users: [root]}}
    - userPassword:
        source: {secret: {secretName: passwords}}
        propagationMethod: {qemuGuestAgent: {}}
";
    let volumes = "  volumes:\n";
    assert!(vmi.contains(volumes));
    vmi.replace(volumes, &format!("{credentials}{volumes}"))
}

fn json(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command in the guest: its exit code and output.
fn exec(pod: &Pod, words: &[&str]) -> (i64, String) {
    let output = pod.ctl(&[&["-o", "json", "exec", "--limit", "30"], words].concat());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (answer["exitCode"].as_i64().unwrap(), answer["stdOut"].as_str().unwrap().to_owned())
}

/// `fsFreezeStatus` as virt-handler was told last.
fn told_freeze(virt_handler: &VirtHandler) -> String {
    let told = virt_handler.pipe.received();
    let last = told.iter().rev().find_map(|event| match event {
        Received::Domain { domain, .. } => Some(domain),
        Received::K8s(_) => None,
    });
    last.and_then(|domain| domain.pointer("/Status/FSFreezeStatus/Status")?.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn wait_told(virt_handler: &VirtHandler, status: &str) {
    wait_for(status, GUEST, || {
        let told = told_freeze(virt_handler);
        expect(told == status, told)
    });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn real_agent_is_asked_and_obeys() {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--qemu-fsfreeze-status-interval", "1s"]);
    pod.wait_ready();
    pod.provide_disks();
    provide(&pod, "keys", "first", "id", "ssh-ed25519 AAAA first");
    provide(&pod, "passwords", "first", "guest", "one: two\"'$");
    let virt_handler = pod.virt_handler(&vmi());
    let synced = pod.sync(&vmi());
    assert!(synced.status.success(), "{}", text(&synced));
    pod.wait_status("Running");

    // Before the agent is there: what the original answered in the same state.
    let silent =
        "virError(Code=86, Domain=10, Message='Guest agent is not responding: QEMU guest agent is not connected')";
    for command in [&["exec", "/bin/true"][..], &["guest-ping"]] {
        let refused = pod.ctl(command);
        assert!(text(&refused).contains(silent), "{command:?}: {}", text(&refused));
    }
    let refused = pod.ctl(&["freeze"]);
    assert!(text(&refused).contains(&silent.replace("virError", "LibvirtError")), "{}", text(&refused));
    assert_eq!(
        json(&pod.ctl(&["-o", "json", "guest-info"])),
        serde_json::json!({"os": {}, "timezone": ", 0", "fsInfo": {"disks": null}})
    );

    pod.wait_console("mounted 0");
    let info = wait_for("the agent's answers", GUEST, || {
        let info = json(&pod.ctl(&["-o", "json", "guest-info"]));
        expect(info["guestAgentVersion"].is_string() && info["hostname"] == "demo", &info).map(|()| info)
    });
    assert_eq!(info["os"]["prettyName"], "Test guest");
    assert_eq!(info["os"]["machine"], "x86_64");
    let commands = info["supportedCommands"].as_array().unwrap();
    assert!(commands.iter().any(|command| command["name"] == "guest-exec" && command["enabled"] == true));
    assert_eq!(json(&pod.ctl(&["-o", "json", "users"])), serde_json::json!([]));
    let domain = json(&pod.ctl(&["-o", "json", "get-domain"]));
    assert_eq!(domain["Status"]["OSInfo"]["PrettyName"], "Test guest");
    wait_told(&virt_handler, "thawed");

    assert!(pod.ctl(&["guest-ping"]).status.success());
    assert_eq!(exec(&pod, &["/bin/echo", "a\"b\\c $HOME; ü"]), (0, "a\"b\\c $HOME; ü\n".to_owned()));
    assert_eq!(exec(&pod, &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]), (7, "out\n".to_owned()));
    let missing = pod.ctl(&["exec", "/no/such/program"]);
    assert!(!missing.status.success() && text(&missing).contains("virError("), "{}", text(&missing));
    let started = Instant::now();
    let slow = pod.ctl(&["exec", "--limit", "1", "/bin/sleep", "600"]);
    assert!(text(&slow).contains("Timed out waiting for guest pid ["), "{}", text(&slow));
    assert!(text(&slow).contains("for command [/bin/sleep] to exit"), "{}", text(&slow));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());

    keys_and_passwords(&pod);
    keys_of_an_older_agent(&pod, &virt_handler);
    freeze_and_thaw(&pod, &virt_handler);
    slow_freeze(&pod, &virt_handler);
    helpers(&pod, &virt_handler);
    die_while_frozen(&pod, &virt_handler);
    pause(&pod);
    disconnect(&pod, &virt_handler);
}

/// Replaces a secret of one key as the kubelet does.
fn provide(pod: &Pod, secret: &str, generation: &str, key: &str, value: &str) {
    let secret = pod.volume("private").join(format!("secret/{secret}-access-cred"));
    fs::create_dir_all(secret.join(format!("..{generation}"))).unwrap();
    fs::write(secret.join(format!("..{generation}/{key}")), format!("{value}\n")).unwrap();
    std::os::unix::fs::symlink(format!("..{generation}"), secret.join("..data_tmp")).unwrap();
    fs::rename(secret.join("..data_tmp"), secret.join("..data")).unwrap();
    let _ = std::os::unix::fs::symlink(format!("..data/{key}"), secret.join(key));
}

/// The result of the last try to propagate credentials, as virt-handler is told.
fn credentials(pod: &Pod) -> Value {
    pod.domain().pointer("/Spec/Metadata/KubeVirt/AccessCredential").cloned().unwrap_or_default()
}

/// Waits until a file of the guest has this text.
fn wait_file(pod: &Pod, path: &str, content: &str) {
    wait_for(content, GUEST, || {
        let (_, now) = exec(pod, &["/bin/cat", path]);
        expect(now.trim() == content, now)
    });
}

const KEYS: &str = "/root/.ssh/authorized_keys";

fn keys_and_passwords(pod: &Pod) {
    wait_file(pod, KEYS, "ssh-ed25519 AAAA first");
    wait_file(pod, "/run/chpasswd", "guest:one: two\"'$");
    wait_for("the result", GUEST, || {
        let result = credentials(pod);
        expect(result == serde_json::json!({"Succeeded": true, "Message": ""}), result)
    });
    provide(pod, "keys", "second", "id", "ssh-ed25519 BBBB second");
    wait_file(pod, KEYS, "ssh-ed25519 BBBB second");
    provide(pod, "passwords", "second", "guest", "dr3i");
    wait_file(pod, "/run/chpasswd", "guest:dr3i");
    assert!(!pod.lines().iter().any(|line| line.contains("dr3i")), "a password is in the log");
}

/// An agent that knows no SSH keys yet: they are written as a file, and the user is told to update it.
fn keys_of_an_older_agent(pod: &Pod, virt_handler: &VirtHandler) {
    let blocked = "guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys,guest-ssh-get-authorized-keys";
    let before = virt_handler.pipe.received().len();
    restart_agent(pod, &format!("--block-rpcs={blocked}"));
    provide(pod, "keys", "third", "id", "ssh-ed25519 CCCC third");
    wait_file(pod, KEYS, "ssh-ed25519 CCCC third");
    let modes = exec(pod, &["/bin/stat", "-c", "%a %u %n", "/root/.ssh", KEYS]).1;
    assert_eq!(modes, format!("700 0 /root/.ssh\n600 0 {KEYS}\n"));
    let event = wait_for("the advice", GUEST, || {
        let told = virt_handler.pipe.received();
        let event = told.iter().skip(before).find_map(|event| match event {
            Received::K8s(event) => Some(event.clone()),
            Received::Domain { .. } => None,
        });
        event.ok_or_else(|| credentials(pod).to_string())
    });
    assert_eq!((&event["reason"], &event["type"]), (&"AccessCredentialsSyncSuccess".into(), &"Warning".into()));

    // What the agent refuses is told.
    restart_agent(pod, "--block-rpcs=guest-set-user-password");
    provide(pod, "passwords", "third", "guest", "v1er");
    let refused = wait_for("the failure", GUEST, || {
        let result = credentials(pod);
        expect(result["Succeeded"] == false && result["Message"] != "Guest agent is offline", &result).map(|()| result)
    });
    let said = refused["Message"].as_str().unwrap();
    assert!(said.starts_with("Error encountered setting password for user [guest]: virError(Code="), "{said}");
    assert!(!said.contains("v1er"), "{said}");
    restart_agent(pod, "--statedir=/run");
}

/// Another agent takes the place of the one that runs, with one more option.
fn restart_agent(pod: &Pod, option: &str) {
    let port = exec(pod, &["/bin/sh", "-c", "grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name"]).1;
    let port = port.split('/').nth(4).unwrap();
    let new = format!("qemu-ga -m virtio-serial -p /dev/{port} -t /run -f /run/qemu-ga.pid -l /run/qemu-ga.log -d");
    let swap = format!("(sleep 1; kill $(cat /run/qemu-ga.pid); sleep 1; {new} {option}) >/dev/null 2>&1 &");
    let before = exec(pod, &["/bin/cat", "/run/qemu-ga.pid"]).1;
    assert_eq!(exec(pod, &["/bin/sh", "-c", &swap]).0, 0);
    wait_for("another agent", GUEST, || {
        let output = pod.ctl(&["-o", "json", "exec", "--limit", "30", "/bin/cat", "/run/qemu-ga.pid"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let now = answer["stdOut"].as_str().unwrap_or_default();
        expect(!now.is_empty() && now != before, text(&output))
    });
}

/// The programs that the kubelet and backup hooks run in the container.
fn helpers(pod: &Pod, virt_handler: &VirtHandler) {
    let probe = ["virt-probe", "--domainName", "default_demo", "--timeoutSeconds", "20"];
    pod.exec(&[&probe[..], &["--guestAgentPing"]].concat());
    assert_eq!(
        pod.exec(&[&probe[..], &["--command", "/bin/echo", "--", "from", "the guest"]].concat()),
        "from the guest"
    );
    let freezer = ["virt-freezer", "--name", "demo", "--namespace", "default"];
    pod.exec(&[&freezer[..], &["--freeze"]].concat());
    wait_told(virt_handler, "frozen");
    pod.exec(&[&freezer[..], &["--unfreeze"]].concat());
    wait_told(virt_handler, "thawed");
}

/// The safety timer outlives the launcher that set it.
fn die_while_frozen(pod: &Pod, virt_handler: &VirtHandler) {
    let frozen = pod.ctl(&["freeze", "--unfreeze-after", "10"]);
    assert!(frozen.status.success(), "{}", text(&frozen));
    pod.replace_launcher();
    wait_told(virt_handler, "frozen");
    wait_told(virt_handler, "thawed");
    // The frozen agent refused to say it to the new launcher.
    wait_for("the guest's name", GUEST, || {
        let info = json(&pod.ctl(&["-o", "json", "guest-info"]));
        expect(info["hostname"] == "demo", info)
    });
}

fn freeze_and_thaw(pod: &Pod, virt_handler: &VirtHandler) {
    // Frozen file systems are listed by name.
    let filesystems = wait_for("the mounted file system", GUEST, || {
        let list = json(&pod.ctl(&["-o", "json", "filesystems"]));
        let found = list.as_array().unwrap().iter().any(|filesystem| filesystem["mountPoint"] == "/data");
        // The list is asked for every 10 s at first.
        expect(found, &list).map(|()| list)
    });
    assert_eq!(filesystems[0]["fileSystemType"], "ext4", "{filesystems}");

    for _ in 0..2 {
        let frozen = pod.ctl(&["freeze", "--unfreeze-after", "0"]);
        assert!(frozen.status.success(), "freezing what is frozen succeeds: {}", text(&frozen));
    }
    wait_told(virt_handler, "frozen");
    for _ in 0..2 {
        let thawed = pod.ctl(&["unfreeze"]);
        assert!(thawed.status.success(), "thawing what is thawed succeeds: {}", text(&thawed));
    }
    wait_told(virt_handler, "thawed");

    let begun = Instant::now();
    let frozen = pod.ctl(&["freeze", "--unfreeze-after", "6"]);
    assert!(frozen.status.success(), "{}", text(&frozen));
    wait_told(virt_handler, "frozen");
    wait_told(virt_handler, "thawed");
    assert!(begun.elapsed() >= Duration::from_secs(6), "the safety timer came early: {:?}", begun.elapsed());
    assert_eq!(exec(pod, &["/bin/touch", "/data/again"]).0, 0);
}

/// A guest that has much to write, or databases to ask, freezes within what virt-handler waits, and stays frozen.
fn slow_freeze(pod: &Pod, virt_handler: &VirtHandler) {
    let hook = "/run/slow-freeze";
    let write = format!("printf '#!/bin/sh\\n[ $1 = thaw ] || sleep 15\\n' > {hook} && chmod 755 {hook}");
    assert_eq!(exec(pod, &["/bin/sh", "-c", &write]).0, 0);
    restart_agent(pod, &format!("--fsfreeze-hook={hook}"));
    let begun = Instant::now();
    let frozen = pod.ctl(&["--timeout", "60", "freeze", "--unfreeze-after", "0"]);
    assert!(frozen.status.success(), "after {:?}: {}", begun.elapsed(), text(&frozen));
    assert!(begun.elapsed() >= Duration::from_secs(15), "the guest was not slow: {:?}", begun.elapsed());
    wait_told(virt_handler, "frozen");
    assert!(pod.ctl(&["unfreeze"]).status.success());
    wait_told(virt_handler, "thawed");
    restart_agent(pod, "--statedir=/run");
}

fn pause(pod: &Pod) {
    assert!(pod.ctl(&["pause"]).status.success());
    pod.wait_status("Paused");
    let healthy = pod.ctl(&["guest-ping"]);
    assert!(healthy.status.success(), "a guest that was paused on purpose is healthy: {}", text(&healthy));
    assert!(pod.ctl(&["unpause"]).status.success());
    pod.wait_status("Running");
    wait_for("the agent after the pause", GUEST, || {
        let ping = pod.ctl(&["guest-ping"]);
        expect(ping.status.success(), text(&ping))
    });
}

fn disconnect(pod: &Pod, virt_handler: &VirtHandler) {
    // In the background, so that the agent can still answer.
    let (code, _) = exec(pod, &["/bin/sh", "-c", "(sleep 1; kill $(cat /run/qemu-ga.pid)) >/dev/null 2>&1 &"]);
    assert_eq!(code, 0);
    let channel = |state: &str| {
        wait_for(state, GUEST, || {
            let domain = json(&pod.ctl(&["-o", "json", "get-domain"]));
            let channels = domain["Spec"]["Devices"]["Channels"].as_array().unwrap().clone();
            let agent = channels.iter().find(|channel| channel["Target"]["Name"] == "org.qemu.guest_agent.0").unwrap();
            expect(agent["Target"]["State"] == state, agent)
        });
    };
    channel("disconnected");
    let known = json(&pod.ctl(&["-o", "json", "guest-info"]));
    assert_eq!(known["hostname"], "demo", "what was learnt stays");
    let before = virt_handler.pipe.received().len();
    let refused = pod.ctl(&["guest-ping"]);
    assert!(text(&refused).contains("virError(Code=86"), "{}", text(&refused));
    let event = wait_for("the event", GUEST, || {
        let events = virt_handler.pipe.received();
        let event = events.iter().skip(before).find_map(|event| match event {
            Received::K8s(event) => Some(event.clone()),
            Received::Domain { .. } => None,
        });
        event.ok_or("none yet")
    });
    assert_eq!(event["reason"], "GuestAgentPingFailed");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["message"], "GuestAgentPing probe failed for VMI demo");
}
