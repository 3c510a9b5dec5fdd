//! One hook sidecar: what it is, and its callbacks in the newest version that it speaks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{HookError, Timings};
use crate::proto::hooks_info::info_client::InfoClient;
use crate::proto::hooks_info::{InfoParams, InfoResult};
use crate::proto::{hooks_v1alpha1, hooks_v1alpha2, hooks_v1alpha3, unix};

/// Where a sidecar can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HookPoint {
    OnDefineDomain,
    PreCloudInitIso,
    Shutdown,
}

impl HookPoint {
    fn name(self) -> &'static str {
        match self {
            HookPoint::OnDefineDomain => "OnDefineDomain",
            HookPoint::PreCloudInitIso => "PreCloudInitIso",
            HookPoint::Shutdown => "Shutdown",
        }
    }

    /// The first version that has it.
    fn since(self) -> Version {
        match self {
            HookPoint::OnDefineDomain => Version::V1Alpha1,
            HookPoint::PreCloudInitIso => Version::V1Alpha2,
            HookPoint::Shutdown => Version::V1Alpha3,
        }
    }
}

/// Versions of the callbacks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V1Alpha1,
    V1Alpha2,
    V1Alpha3,
}

impl Version {
    const NEWEST_FIRST: [Version; 3] = [Version::V1Alpha3, Version::V1Alpha2, Version::V1Alpha1];

    fn name(self) -> &'static str {
        match self {
            Version::V1Alpha1 => "v1alpha1",
            Version::V1Alpha2 => "v1alpha2",
            Version::V1Alpha3 => "v1alpha3",
        }
    }
}

/// The arguments of `PreCloudInitIso`, each as JSON (contract/lifecycle.md 10.1).
#[derive(Debug, Clone)]
pub struct CloudInitQuestion {
    /// The user and network data as the API's `cloudInitNoCloud`.
    pub no_cloud_source: Vec<u8>,
    /// The VMI.
    pub vmi: Vec<u8>,
    /// The whole data.
    pub data: Vec<u8>,
}

/// What `PreCloudInitIso` made of it.
#[derive(Debug, Clone)]
pub struct CloudInitAnswer {
    /// Who answered.
    pub socket: PathBuf,
    /// As [`CloudInitQuestion::no_cloud_source`].
    pub no_cloud_source: Vec<u8>,
    /// As [`CloudInitQuestion::data`].
    pub data: Vec<u8>,
}

/// A sidecar that has said what it is.
#[derive(Debug, Clone)]
pub(super) struct Sidecar {
    /// Its name for itself.
    pub(super) name: String,
    /// Where it listens.
    pub(super) socket: PathBuf,
    version: Version,
    /// Name and priority.
    points: Vec<(String, i32)>,
}

impl Sidecar {
    /// Asks who listens on `socket`.
    pub(super) async fn greet(socket: &Path, timings: &Timings) -> Result<Self, HookError> {
        let channel = dial(socket, timings).await?;
        let mut client = InfoClient::new(channel);
        Sidecar::new(socket, call(socket, "Info", timings.info, client.info(InfoParams {})).await?)
    }

    fn new(socket: &Path, info: InfoResult) -> Result<Self, HookError> {
        let InfoResult { name, hook_points, versions } = info;
        let version = Version::NEWEST_FIRST.into_iter().find(|known| versions.iter().any(|one| one == known.name()));
        let Some(version) = version else {
            let known = Version::NEWEST_FIRST.map(Version::name).to_vec();
            return Err(HookError::Version { socket: socket.to_owned(), offered: versions, known });
        };
        let points = hook_points.into_iter().map(|point| (point.name, point.priority)).collect();
        Ok(Sidecar { name, socket: socket.to_owned(), version, points })
    }

    /// Its priority at `point`, if it is to be called there.
    pub(super) fn priority(&self, point: HookPoint) -> Option<i32> {
        let subscribed = self.points.iter().find(|(name, _)| name == point.name());
        subscribed.filter(|_| self.version >= point.since()).map(|(_, priority)| *priority)
    }

    pub(super) async fn on_define_domain(
        &self,
        xml: String,
        vmi: &[u8],
        timings: &Timings,
    ) -> Result<String, HookError> {
        let channel = dial(&self.socket, timings).await?;
        let (name, within) = (HookPoint::OnDefineDomain.name(), timings.callback);
        let (domain_xml, vmi) = (xml.into_bytes(), vmi.to_vec());
        // The same message in three packages.
        macro_rules! ask {
            ($package:ident) => {{
                let mut client = $package::callbacks_client::CallbacksClient::new(channel);
                let asked = client.on_define_domain($package::OnDefineDomainParams { domain_xml, vmi });
                call(&self.socket, name, within, asked).await?.domain_xml
            }};
        }
        let answer = match self.version {
            Version::V1Alpha1 => ask!(hooks_v1alpha1),
            Version::V1Alpha2 => ask!(hooks_v1alpha2),
            Version::V1Alpha3 => ask!(hooks_v1alpha3),
        };
        String::from_utf8(answer).map_err(|error| self.unusable(name, format!("a domain that is not text: {error}")))
    }

    pub(super) async fn pre_cloud_init_iso(
        &self,
        question: CloudInitQuestion,
        timings: &Timings,
    ) -> Result<CloudInitAnswer, HookError> {
        let channel = dial(&self.socket, timings).await?;
        let (name, within) = (HookPoint::PreCloudInitIso.name(), timings.callback);
        let CloudInitQuestion { no_cloud_source, vmi, data } = question;
        macro_rules! ask {
            ($package:ident) => {{
                let mut client = $package::callbacks_client::CallbacksClient::new(channel);
                let asked = client.pre_cloud_init_iso($package::PreCloudInitIsoParams {
                    cloud_init_no_cloud_source: no_cloud_source,
                    vmi,
                    cloud_init_data: data,
                });
                let answer = call(&self.socket, name, within, asked).await?;
                (answer.cloud_init_no_cloud_source, answer.cloud_init_data)
            }};
        }
        let (no_cloud_source, data) = match self.version {
            Version::V1Alpha1 => return Err(self.unusable(name, "v1alpha1, which does not have it".to_owned())),
            Version::V1Alpha2 => ask!(hooks_v1alpha2),
            Version::V1Alpha3 => ask!(hooks_v1alpha3),
        };
        Ok(CloudInitAnswer { socket: self.socket.clone(), no_cloud_source, data })
    }

    pub(super) async fn shutdown(&self, timings: &Timings) -> Result<(), HookError> {
        let channel = dial(&self.socket, timings).await?;
        let mut client = hooks_v1alpha3::callbacks_client::CallbacksClient::new(channel);
        let asked = client.shutdown(hooks_v1alpha3::ShutdownParams {});
        call(&self.socket, HookPoint::Shutdown.name(), timings.callback, asked).await.map(drop)
    }

    fn unusable(&self, call: &'static str, why: String) -> HookError {
        HookError::Answer { socket: self.socket.clone(), call, why }
    }
}

pub(super) async fn dial(socket: &Path, timings: &Timings) -> Result<Channel, HookError> {
    let dialled = unix::dial(socket, timings.dial).await;
    dialled.map_err(|error| HookError::Dial { socket: socket.to_owned(), reason: error.to_string() })
}

/// Waits for the answer to a call.
pub(super) async fn call<T>(
    socket: &Path,
    call: &'static str,
    within: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, HookError> {
    let failed = |code, message| HookError::Call { socket: socket.to_owned(), call, code, message };
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(status.code(), status.message().to_owned())),
        Err(_) => Err(failed(tonic::Code::DeadlineExceeded, format!("no answer within {:.1} s", within.as_secs_f32()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Hooks;
    use crate::proto::hooks_info;

    fn sidecar(name: &str, versions: &[&str], points: &[(&str, i32)]) -> Result<Sidecar, HookError> {
        let point =
            |(name, priority): &(&str, i32)| hooks_info::HookPoint { name: (*name).into(), priority: *priority };
        let info = InfoResult {
            name: name.into(),
            hook_points: points.iter().map(point).collect(),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        };
        Sidecar::new(Path::new("/hooks").join(name).as_path(), info)
    }

    #[test]
    fn newest_common_version_counts() {
        let points = [("OnDefineDomain", 1), ("PreCloudInitIso", 2), ("Shutdown", 3), ("Later", 4)];
        let at = |sidecar: &Sidecar| {
            [HookPoint::OnDefineDomain, HookPoint::PreCloudInitIso, HookPoint::Shutdown]
                .map(|point| sidecar.priority(point))
        };
        let three = sidecar("a", &["v1alpha1", "v1alpha3", "v2"], &points).unwrap();
        assert_eq!(at(&three), [Some(1), Some(2), Some(3)]);
        let two = sidecar("a", &["v1alpha2", "v1alpha1"], &points).unwrap();
        assert_eq!(at(&two), [Some(1), Some(2), None]);
        let one = sidecar("a", &["v1alpha1"], &points).unwrap();
        assert_eq!(at(&one), [Some(1), None, None]);
        let none = sidecar("a", &["v2"], &points).unwrap_err().to_string();
        assert!(none.contains("/hooks/a") && none.contains("v2") && none.contains("v1alpha3"), "{none}");
    }

    #[test]
    fn highest_priority_comes_first_then_the_name() {
        let one = |name: &str, priority: i32| sidecar(name, &["v1alpha1"], &[("OnDefineDomain", priority)]).unwrap();
        let silent = sidecar("silent", &["v1alpha3"], &[("Shutdown", 99)]).unwrap();
        let sidecars = vec![one("b", 1), one("z", 7), silent, one("a", 1), one("c", -3)];
        let hooks = Hooks { sidecars: std::sync::Arc::new(sidecars), ..Hooks::default() };
        let order: Vec<&str> =
            hooks.subscribed(HookPoint::OnDefineDomain).map(|sidecar| sidecar.name.as_str()).collect();
        assert_eq!(order, ["z", "a", "b", "c"]);
    }
}
