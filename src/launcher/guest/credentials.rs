//! SSH keys and passwords that reach the guest by its agent (contract/cmd-server.md 8.3).
//!
//! What the reader can rely on: the secrets are looked at when Kubernetes has replaced them, when an agent appears, and
//! now and then in any case; while there is no agent nothing is tried; passwords are in no message and no log.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;

use super::Guest;
use crate::domain::{AccessCredentialMetadata, SECRETS};
use crate::files::{Appearance, is_component, with_deadline};
use crate::guest_agent::{self, AgentError, Command, LibvirtAgent};
use crate::launcher::facts::below;
use crate::launcher::vm::metadata::MetadataCache;
use crate::vmi::VirtualMachineInstance;

/// What Kubernetes replaces when a secret changes.
const GENERATION: &str = "..data";
/// After a pass that failed.
const RETRY: Duration = Duration::from_secs(15);
/// After one that did not: a user of the guest may have changed the keys.
const RESYNC: Duration = Duration::from_secs(300);
/// How long each step of the fallback may take in the guest, in seconds.
const STEP: i32 = 10;
/// How long the secrets may take to be read.
const READING: Duration = Duration::from_secs(10);
/// Most bytes of a key or password file; a secret has 1 MiB at most.
const LIMIT: u64 = 1024 * 1024;

/// What is to be propagated, by secret.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Credential {
    /// Each of the users gets each of the keys.
    SshKeys { secret: String, users: Vec<String> },
    /// Files are named like users.
    Passwords { secret: String },
}

impl Credential {
    fn folder(&self, secrets: &Path) -> PathBuf {
        match self {
            Credential::SshKeys { secret, .. } | Credential::Passwords { secret } => {
                secrets.join(format!("{secret}-access-cred"))
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SshByAgent {
    users: Vec<String>,
}

/// Those of the VMI that go through the guest agent.
fn credentials(vmi: &VirtualMachineInstance) -> Vec<Credential> {
    let mut found = Vec::new();
    for credential in &vmi.spec.access_credentials {
        if let Some(ssh) = &credential.ssh_public_key
            && let (Some(method), Some(secret)) = (&ssh.propagation_method.qemu_guest_agent, &ssh.source.secret)
        {
            let users = SshByAgent::deserialize(method).unwrap_or_default().users;
            found.push(Credential::SshKeys { secret: secret.secret_name.clone(), users });
        }
        if let Some(password) = &credential.user_password
            && let Some(secret) = &password.source.secret
            && password.propagation_method.get("qemuGuestAgent").is_some_and(|method| !method.is_null())
        {
            found.push(Credential::Passwords { secret: secret.secret_name.clone() });
        }
    }
    found.retain(|credential| match credential {
        Credential::SshKeys { secret, .. } | Credential::Passwords { secret } => is_component(secret),
    });
    found
}

/// What the secrets say now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    keys: BTreeMap<String, Vec<String>>,
    passwords: BTreeMap<String, String>,
}

impl Wanted {
    fn read(credentials: &[Credential], secrets: &Path) -> Result<Self, String> {
        let mut wanted = Wanted::default();
        for credential in credentials {
            let files = files(&credential.folder(secrets))?;
            match credential {
                Credential::SshKeys { users, .. } => {
                    let lines = files.values().flat_map(|content| content.lines());
                    let keys: Vec<&str> = lines.map(str::trim).filter(|key| !key.is_empty()).collect();
                    for user in users {
                        wanted.keys.entry(user.clone()).or_default().extend(keys.iter().map(|key| (*key).to_owned()));
                    }
                }
                Credential::Passwords { .. } => {
                    // An empty one would open the account to everybody.
                    let passwords = files.into_iter().map(|(user, text)| (user, text.trim().to_owned()));
                    wanted.passwords.extend(passwords.filter(|(_, password)| !password.is_empty()));
                }
            }
        }
        Ok(wanted)
    }
}

/// Name and content of the secret's keys.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn files(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // The kubelet's own, by which it replaces all keys at once.
        if name.starts_with("..") {
            continue;
        }
        let about = std::fs::metadata(&path).map_err(|error| failed(&path, error))?;
        if about.is_dir() {
            continue;
        }
        if about.len() > LIMIT {
            return Err(format!("{}: it has more than {LIMIT} bytes", path.display()));
        }
        let content = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        files.insert(name.to_owned(), content);
    }
    Ok(files)
}

impl Guest {
    /// Starts to propagate the VMI's credentials, if it has any for the agent and this was not done before. `root` holds
    /// the pod's folders.
    pub fn propagate_credentials(&self, vmi: &VirtualMachineInstance, metadata: &MetadataCache, root: &Path) {
        let credentials = credentials(vmi);
        if credentials.is_empty() || self.shared.propagates.swap(true, Ordering::Relaxed) {
            return;
        }
        let (guest, metadata, secrets) = (self.clone(), metadata.clone(), below(root, SECRETS));
        tokio::spawn(async move { guest.propagate(&credentials, &metadata, &secrets).await });
    }

    async fn propagate(&self, credentials: &[Credential], metadata: &MetadataCache, secrets: &Path) {
        let mut presence = self.shared.presence.subscribe();
        let mut advised = false;
        loop {
            // Before the secrets are read, so that no change is missed.
            let changes: Vec<Appearance> = credentials
                .iter()
                .filter_map(|credential| Appearance::of(&credential.folder(secrets).join(GENERATION)).ok())
                .collect();
            let session = *presence.borrow_and_update();
            let (outcome, fallback) = match session {
                Some(_) => self.pass(credentials, secrets).await,
                None => (Err("Guest agent is offline".to_owned()), false),
            };
            let pause = if outcome.is_ok() { RESYNC } else { RETRY };
            if outcome.is_ok() && fallback && !std::mem::replace(&mut advised, true) {
                self.warning(
                    "AccessCredentialsSyncSuccess",
                    "Used deprecated method to set SSH keys. It will be removed in a future release. Update qemu guest \
                     agent to 5.2 or newer to keep SSH key injection working."
                        .to_owned(),
                );
            }
            metadata.edit(|metadata| {
                let (succeeded, message) = match outcome {
                    Ok(()) => (true, String::new()),
                    Err(message) => (false, message),
                };
                metadata.access_credential = Some(AccessCredentialMetadata { succeeded, message });
            });
            tokio::select! {
                () = changed(changes) => {}
                // A new agent may belong to another guest system.
                now = presence.wait_for(|now| *now != session) => if now.is_err() { return },
                () = tokio::time::sleep(pause), if session.is_some() => {}
            }
        }
    }

    /// Sets everything once. All users are tried; the first failure is returned, else whether the fallback was needed.
    async fn pass(&self, credentials: &[Credential], secrets: &Path) -> (Result<(), String>, bool) {
        let agent = &self.shared.agent.in_background();
        let within = agent.connection.deadlines().agent;
        if let Err(error) = guest_agent::ping(agent, within).await {
            tracing::info!(v = 3, "access credentials wait for the guest agent: {error}");
            return (Err("Guest agent is offline".to_owned()), false);
        }
        let (asked, secrets) = (credentials.to_vec(), secrets.to_owned());
        let wanted = match with_deadline(READING, move || Wanted::read(&asked, &secrets)).await {
            Ok(Ok(wanted)) => wanted,
            Ok(Err(why)) | Err(why) => return (Err(why), false),
        };
        let mut first = None;
        let mut fallback = false;
        for (user, keys) in wanted.keys {
            let set = agent.connection.set_authorized_keys(&agent.domain, user.clone(), keys.clone(), within).await;
            if let Err(error) = set {
                // An agent that does not answer would leave the other way, and all other users, unanswered as well.
                if error.is_agent_silent() {
                    return (Err(format!("Guest agent is offline: {error}")), fallback);
                }
                tracing::info!(v = 3, "setting SSH keys of {user} in the older way: {error}");
                match write_keys(agent, &user, &keys).await {
                    Ok(()) => fallback = true,
                    Err(error) => {
                        first.get_or_insert(format!(
                            "Error encountered writing ssh pub key access credentials for user [{user}]: {error}"
                        ));
                    }
                }
            }
        }
        for (user, password) in wanted.passwords {
            let set = agent.connection.set_user_password(&agent.domain, user.clone(), password, within).await;
            if let Err(error) = set {
                first.get_or_insert(format!("Error encountered setting password for user [{user}]: {error}"));
            }
        }
        (first.map_or(Ok(()), Err), fallback)
    }
}

/// The first change of one of the secrets; never if none can be watched.
async fn changed(changes: Vec<Appearance>) {
    let mut watched = tokio::task::JoinSet::new();
    for mut change in changes {
        watched.spawn(async move { change.appeared().await.is_ok() });
    }
    while let Some(ended) = watched.join_next().await {
        if ended.is_ok_and(|appeared| appeared) {
            return;
        }
    }
    std::future::pending().await
}

/// Replaces `authorized_keys` of a user whose agent cannot do so itself.
async fn write_keys(agent: &LibvirtAgent, user: &str, keys: &[String]) -> Result<(), AgentError> {
    let entry = run(agent, "getent", &["passwd", user]).await?;
    let fields: Vec<&str> = entry.trim().split(':').collect();
    let (Some(home), Some(uid), Some(gid)) = (fields.get(5), fields.get(2), fields.get(3)) else {
        return Err(AgentError::Reply { command: "getent", why: format!("{user} has no home directory") });
    };
    let (folder, owner) = (format!("{home}/.ssh"), format!("{uid}:{gid}"));
    let file = format!("{folder}/authorized_keys");
    let mut content = keys.join("\n");
    content.push('\n');
    if guest_agent::read_file(agent, &file).await.is_ok_and(|now| now == content.as_bytes()) {
        return Ok(());
    }
    run(agent, "mkdir", &["-p", &folder]).await?;
    guest_agent::write_file(agent, &file, content.as_bytes()).await?;
    run(agent, "chown", &["-R", &owner, &folder]).await?;
    run(agent, "chmod", &["700", &folder]).await?;
    run(agent, "chmod", &["600", &file]).await.map(drop)
}

/// A command that has to succeed; its output.
async fn run(agent: &LibvirtAgent, path: &str, arguments: &[&str]) -> Result<String, AgentError> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let command = Command { path: path.to_owned(), arguments, timeout_seconds: STEP };
    let finished = guest_agent::exec(agent, &command).await?;
    match finished.exit_code {
        0 => Ok(finished.output),
        code => Err(AgentError::Exit { command: path.to_owned(), code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{"spec":{"accessCredentials":[
        {"sshPublicKey":{"source":{"secret":{"secretName":"keys"}},"propagationMethod":{"qemuGuestAgent":{"users":["root","me"]}}}},
        {"sshPublicKey":{"source":{"secret":{"secretName":"more"}},"propagationMethod":{"qemuGuestAgent":{"users":["me"]}}}},
        {"sshPublicKey":{"source":{"secret":{"secretName":"other"}},"propagationMethod":{"noCloud":{}}}},
        {"userPassword":{"source":{"secret":{"secretName":"pw"}},"propagationMethod":{"qemuGuestAgent":{}}}},
        {"userPassword":{"source":{"secret":{"secretName":"../pw"}},"propagationMethod":{"qemuGuestAgent":{}}}}]}}"#;

    #[test]
    fn only_what_goes_through_the_agent_counts() {
        let vmi = crate::vmi::parse(SPEC.as_bytes()).unwrap();
        let ssh = |secret: &str, users: &[&str]| Credential::SshKeys {
            secret: secret.into(),
            users: users.iter().map(|user| (*user).into()).collect(),
        };
        assert_eq!(
            credentials(&vmi),
            [ssh("keys", &["root", "me"]), ssh("more", &["me"]), Credential::Passwords { secret: "pw".into() }]
        );
    }

    #[test]
    fn secrets_are_read_as_the_kubelet_lays_them_out() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = credentials(&crate::vmi::parse(SPEC.as_bytes()).unwrap());
        let missing = Wanted::read(&credentials, folder.path()).unwrap_err();
        assert!(missing.contains("keys-access-cred"), "{missing}");
        for (secret, key, content) in [
            ("keys", "a", "one\n\n  two  \n"),
            ("keys", "b", "three"),
            ("more", "a", "four\n"),
            ("pw", "me", "geheim\n"),
            ("pw", "root", " \n"),
        ] {
            let secret = folder.path().join(format!("{secret}-access-cred"));
            std::fs::create_dir_all(secret.join("..2026_11")).unwrap();
            std::fs::write(secret.join("..2026_11").join(key), content).unwrap();
            let _ = std::os::unix::fs::symlink("..2026_11", secret.join(GENERATION));
            std::os::unix::fs::symlink(Path::new(GENERATION).join(key), secret.join(key)).unwrap();
        }
        let wanted = Wanted::read(&credentials, folder.path()).unwrap();
        assert_eq!(wanted.keys["root"], ["one", "two", "three"]);
        assert_eq!(wanted.keys["me"], ["one", "two", "three", "four"]);
        assert_eq!(wanted.passwords, BTreeMap::from([("me".to_owned(), "geheim".to_owned())]));
    }
}
