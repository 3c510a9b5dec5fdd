//! Domain hooks of plugins (contract/lifecycle.md 10.2): their sidecars are called, expressions are refused.
//!
//! The expressions are CEL over the original's own Go types, with values that remember which fields were set; no CEL
//! library for Rust knows such types (docs/decisions/0004-no-cel-in-plugins.md). A plugin with an expression therefore fails, and what
//! that means for the VM is the plugin's own choice (`failureStrategy`).

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::sidecar::{call, dial};
use super::{HookError, Timings};
use crate::files::is_component;
use crate::proto::plugins_v1alpha1::domain_hook_service_client::DomainHookServiceClient;
use crate::proto::plugins_v1alpha1::{MutateDomainRequest, SidecarContext};
use crate::vmi::strict::reads_only_maps;

/// Below it each plugin has a folder for its sockets.
const SOCKETS: &str = "/var/run/kubevirt-plugin";
/// What the domain is written in.
const DOMAIN_TYPE: &str = "libvirt";

/// Why the hooks run; a string on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvocationContext {
    /// The domain is about to be defined for its start.
    Boot,
}

impl InvocationContext {
    fn name(self) -> &'static str {
        match self {
            InvocationContext::Boot => "Boot",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct Plugin {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, remote = "Self", expecting = "a map")]
struct Metadata {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct Spec {
    condition: String,
    failure_strategy: String,
    domain_hooks: Vec<DomainHook>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct DomainHook {
    cel: Option<serde_json::Value>,
    sidecar: Option<SidecarHook>,
    condition: String,
    failure_strategy: String,
    /// As Go writes durations.
    timeout: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct SidecarHook {
    socket_path: String,
}

reads_only_maps!(Plugin, Metadata, Spec, DomainHook, SidecarHook);

/// The plugins of a VM in their order.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    plugins: Vec<Plugin>,
    sockets: PathBuf,
    timings: Timings,
}

impl Plugins {
    /// Reads `plugins`, as virt-handler sends them; an error says what cannot be read.
    pub fn read(plugins: &[serde_json::Value], timings: Timings) -> Result<Self, serde_json::Error> {
        let mut plugins: Vec<Plugin> = plugins.iter().map(Plugin::deserialize).collect::<Result<_, _>>()?;
        plugins.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(Plugins { plugins, sockets: SOCKETS.into(), timings })
    }

    /// The same plugins with their sockets below another folder, for tests.
    #[must_use]
    pub fn below(self, sockets: PathBuf) -> Self {
        Plugins { sockets, ..self }
    }

    /// Lets every hook have its way with `xml`, in the order of the plugins' names. `vmi` is the VMI as JSON.
    pub async fn apply(&self, mut xml: String, vmi: &[u8], context: InvocationContext) -> Result<String, HookError> {
        for plugin in &self.plugins {
            let Plugin { metadata: Metadata { name }, spec } = plugin;
            if spec.domain_hooks.is_empty() {
                continue;
            }
            if !spec.condition.is_empty() {
                refuse(name, &[&spec.failure_strategy], "condition evaluation ".to_owned(), no_cel())?;
                continue;
            }
            for (number, hook) in spec.domain_hooks.iter().enumerate() {
                let strategies = [hook.failure_strategy.as_str(), &spec.failure_strategy];
                if hook.cel.is_none() && hook.sidecar.is_none() {
                    continue;
                }
                if !hook.condition.is_empty() {
                    refuse(name, &strategies, format!("hook {number} condition evaluation "), no_cel())?;
                    continue;
                }
                match self.run(name, hook, &xml, vmi, context).await {
                    Ok(changed) => xml = changed,
                    Err(why) => refuse(name, &strategies, format!("hook {number} "), why)?,
                }
            }
        }
        Ok(xml)
    }

    async fn run(
        &self,
        plugin: &str,
        hook: &DomainHook,
        xml: &str,
        vmi: &[u8],
        context: InvocationContext,
    ) -> Result<String, String> {
        let (None, Some(SidecarHook { socket_path })) = (&hook.cel, &hook.sidecar) else { return Err(no_cel()) };
        let socket = self.socket(plugin, socket_path)?;
        let within = match &hook.timeout {
            Some(text) => go_duration(text).ok_or_else(|| format!("its timeout {text:?} is not a duration"))?,
            None => self.timings.plugin,
        };
        self.wait_for(&socket).await?;
        let channel = dial(&socket, &self.timings).await.map_err(|error| error.to_string())?;
        let mut client = DomainHookServiceClient::new(channel);
        let asked = client.mutate_domain(MutateDomainRequest {
            domain_type: DOMAIN_TYPE.to_owned(),
            domain: xml.as_bytes().to_vec(),
            vmi: vmi.to_vec(),
            sidecar_context: Some(SidecarContext { invocation_context: context.name().to_owned() }),
        });
        let answer = call(&socket, "MutateDomain", within, asked).await.map_err(|error| error.to_string())?;
        if answer.domain.is_empty() {
            return Err(format!("MutateDomain of {} answered without a domain", socket.display()));
        }
        String::from_utf8(answer.domain).map_err(|error| format!("its domain is not text: {error}"))
    }

    /// The socket's path, which has to stay in the plugin's own folder.
    fn socket(&self, plugin: &str, path: &str) -> Result<PathBuf, String> {
        let folder = self.sockets.join(plugin);
        let socket = folder.join(path);
        let plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
        let inside = |path: &Path| path.strip_prefix(&folder).is_ok_and(|rest| rest.components().count() > 0);
        if is_component(plugin) && socket.components().all(plain) && inside(&socket) {
            Ok(socket)
        } else {
            Err(format!("its socket {path:?} is not below {}", folder.display()))
        }
    }

    /// Waits for the socket; neither it nor a folder on the way below the plugins' folder may be a symbolic link.
    async fn wait_for(&self, socket: &Path) -> Result<(), String> {
        let deadline = Instant::now() + self.timings.plugin_socket;
        loop {
            let parts = socket.ancestors().take_while(|path| *path != self.sockets);
            for path in parts {
                if std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_symlink()) {
                    return Err(format!("{} is a symbolic link", path.display()));
                }
            }
            if socket.exists() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let within = self.timings.plugin_socket.as_secs_f32();
                return Err(format!("{} did not appear within {within:.1} s", socket.display()));
            }
            tokio::time::sleep(self.timings.look_again).await;
        }
    }
}

fn no_cel() -> String {
    "this launcher does not evaluate CEL expressions".to_owned()
}

/// A failure, unless the first strategy that is set says to ignore it.
fn refuse(plugin: &str, strategies: &[&str], what: String, why: String) -> Result<(), HookError> {
    let strategy = strategies.iter().find(|strategy| !strategy.is_empty()).copied().unwrap_or("Fail");
    let error = HookError::Plugin { plugin: plugin.to_owned(), what, why };
    if strategy == "Ignore" {
        tracing::warn!("ignored, as its failure strategy says: {error}");
        return Ok(());
    }
    Err(error)
}

/// A duration as Go writes it, such as `1m30s` or `1.5s`; not negative.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugins(list: serde_json::Value, sockets: &Path) -> Plugins {
        let timings = Timings { plugin_socket: Duration::from_millis(30), ..Timings::default() };
        Plugins::read(list.as_array().unwrap(), timings).unwrap().below(sockets.to_owned())
    }

    async fn apply(list: serde_json::Value) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let applied = plugins(list, folder.path()).apply("<domain/>".to_owned(), b"{}", InvocationContext::Boot).await;
        applied.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn expressions_are_refused_as_the_plugin_wants_it() {
        let with = |spec: serde_json::Value| serde_json::json!([{"metadata": {"name": "p"}, "spec": spec}]);
        let cel = serde_json::json!({"cel": {"expression": "Domain{}"}});
        let hook = serde_json::json!({"domainHooks": [cel]});
        assert_eq!(
            apply(with(hook)).await.unwrap_err(),
            "plugin p hook 0 failed: this launcher does not evaluate CEL expressions"
        );
        assert_eq!(apply(with(serde_json::json!({"domainHooks": [{}]}))).await.unwrap(), "<domain/>", "nothing to do");
        let condition = serde_json::json!({"condition": "true", "domainHooks": [{}]});
        assert!(apply(with(condition)).await.unwrap_err().starts_with("plugin p condition evaluation failed: "));
        let condition =
            serde_json::json!({"domainHooks": [{"condition": "true", "sidecar": {"socketPath": "s.sock"}}]});
        assert!(apply(with(condition)).await.unwrap_err().starts_with("plugin p hook 0 condition evaluation failed: "));
        let ignored = serde_json::json!({"failureStrategy": "Ignore", "domainHooks": [cel]});
        assert_eq!(apply(with(ignored)).await.unwrap(), "<domain/>");
        let strict = serde_json::json!({"failureStrategy": "Ignore",
            "domainHooks": [{"cel": {"expression": "x"}, "failureStrategy": "Fail"}]});
        assert!(apply(with(strict)).await.is_err(), "the hook's own strategy counts first");
        assert_eq!(apply(with(serde_json::json!({"condition": "x"}))).await.unwrap(), "<domain/>", "no domain hooks");
    }

    #[tokio::test]
    async fn sockets_stay_where_they_belong() {
        let folder = tempfile::tempdir().unwrap();
        let own = plugins(serde_json::json!([]), folder.path());
        let inside = folder.path().join("p/s.sock");
        assert_eq!(own.socket("p", "s.sock").unwrap(), inside);
        assert_eq!(own.socket("p", inside.to_str().unwrap()).unwrap(), inside);
        for (plugin, path) in
            [("p", "/run/s.sock"), ("p", "../q/s.sock"), ("p", ""), ("..", "x/s.sock"), ("p/q", "s.sock"), ("", "p/s")]
        {
            assert!(own.socket(plugin, path).is_err(), "{plugin} {path}");
        }
        std::fs::create_dir(folder.path().join("p")).unwrap();
        assert!(own.wait_for(&inside).await.unwrap_err().contains("did not appear"));
        std::os::unix::fs::symlink("/dev/null", &inside).unwrap();
        assert!(own.wait_for(&inside).await.unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "-1s", "1x", "1s2"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }
}
