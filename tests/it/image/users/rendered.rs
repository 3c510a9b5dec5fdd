//! A container as one of KubeVirt's controllers renders it, run by podman on this machine.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use virt_launcher::process::PidFd;

use crate::support::pod::{podman, text};
use crate::support::{expect, wait_for};

/// What a container may take that ends by itself, on a busy machine.
const ENDED: Duration = Duration::from_secs(120);

/// A container to be started.
pub struct Rendered {
    options: Vec<String>,
    image: String,
    words: Vec<String>,
}

impl Rendered {
    /// `command` and `args` of a container in a pod: the image's own entry point plays no part.
    pub fn new(image: &str, command: &[&str], args: &[&str]) -> Self {
        let entrypoint = serde_json::to_string(command).unwrap();
        let options = ["--network=none", "--entrypoint", &entrypoint].map(str::to_owned).to_vec();
        let words = args.iter().map(|word| (*word).to_owned()).collect();
        Rendered { options, image: image.to_owned(), words }
    }

    fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// `runAsUser`.
    pub fn user(self, uid: u32) -> Self {
        self.option(&format!("--user={uid}"))
    }

    /// `runAsUser` and `runAsGroup`.
    pub fn user_and_group(self, id: u32) -> Self {
        self.option(&format!("--user={id}:{id}"))
    }

    /// `runAsNonRoot` without a user: the kubelet demands that the image names one by its number, and not root.
    pub fn some_user_but_root(self) -> Self {
        let inspected = podman().args(["image", "inspect", "-f", "{{.User}}", &self.image]).output().unwrap();
        let user = text(&inspected).trim().to_owned();
        let uid: u32 = user.parse().unwrap_or_else(|_| panic!("the kubelet cannot check the image's user {user:?}"));
        assert_ne!(uid, 0, "the kubelet refuses an image that runs as root");
        self
    }

    /// `capabilities: {drop: [ALL]}` and `allowPrivilegeEscalation: false`.
    pub fn confined(self) -> Self {
        self.option("--cap-drop=ALL").option("--security-opt=no-new-privileges")
    }

    /// `capabilities: {drop: [ALL]}` alone.
    pub fn without_capabilities(self) -> Self {
        self.option("--cap-drop=ALL")
    }

    /// `privileged: true`.
    pub fn privileged(self) -> Self {
        self.option("--privileged")
    }

    /// `resources.limits`: parts of a processor, and megabytes.
    pub fn limits(self, cpus: f64, megabytes: u32) -> Self {
        self.option(&format!("--cpus={cpus}")).option(&format!("--memory={}", megabytes * 1_000_000))
    }

    /// `readOnlyRootFilesystem: true`, which nobody renders; whoever adds it by a policy changes nothing.
    pub fn read_only_root(self) -> Self {
        self.option("--read-only")
    }

    /// The pod shares the node's process table.
    pub fn host_pids(self) -> Self {
        self.option("--pid=host")
    }

    pub fn env(self, name: &str, value: &str) -> Self {
        self.option(&format!("--env={name}={value}"))
    }

    /// A volume of the pod.
    pub fn volume(self, from: &Path, to: &str) -> Self {
        self.option(&format!("--volume={}:{to}", from.display()))
    }

    /// The same, read-only.
    pub fn read_only(self, from: &Path, to: &str) -> Self {
        self.option(&format!("--volume={}:{to}:ro", from.display()))
    }

    /// An image as a volume.
    pub fn image_volume(self, image: &str, to: &str) -> Self {
        self.option(&format!("--mount=type=image,source={image},destination={to}"))
    }

    /// Starts it.
    pub fn start(self) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("virt-launcher-users-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let running = Running { name };
        let mut command = podman();
        command.args(["run", "-d", "--name", &running.name]).args(&self.options).arg(&self.image).args(&self.words);
        succeed(&mut command);
        running
    }

    /// Runs it to its end: its exit code, and what it printed.
    pub fn run(self) -> (i32, String) {
        let running = self.start();
        let code = running.exit_code();
        (code, running.log())
    }
}

/// A container that was started; removed when dropped.
pub struct Running {
    name: String,
}

impl Running {
    /// The pid on this machine of its first process.
    pub fn pid(&self) -> i32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    /// Sends SIGTERM to its first process: how long that took to end, and its exit code.
    pub fn terminate(&self, deadline: Duration) -> (Duration, i32) {
        let pid = self.pid();
        let process = PidFd::open(pid).unwrap();
        let start = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert!(
            process.wait_until(start + deadline).unwrap(),
            "it lives on {deadline:?} after SIGTERM: {}",
            self.log()
        );
        (start.elapsed(), self.exit_code())
    }

    /// Waits for its end.
    pub fn exit_code(&self) -> i32 {
        wait_for("the end of the container", ENDED, || {
            expect(self.inspect("{{.State.Running}}") == "false", self.log())
        });
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    pub fn log(&self) -> String {
        text(&podman().args(["logs", &self.name]).output().unwrap())
    }

    fn inspect(&self, what: &str) -> String {
        succeed(podman().args(["container", "inspect", "-f", what, &self.name]))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = podman().args(["rm", "-f", "-t", "0", &self.name]).output();
    }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
