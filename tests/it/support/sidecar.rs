//! Double of a hook sidecar, because a real one is a container of its own: says what it is in any version, marks the
//! domains and cloud-init data that it is given, and records its calls.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Request, Response as Reply, Status};
use tower::Service;
use virt_launcher::proto::hooks_info::info_server::{Info, InfoServer};
use virt_launcher::proto::hooks_info::{HookPoint, InfoParams, InfoResult};
use virt_launcher::proto::plugins_v1alpha1::domain_hook_service_server::{DomainHookService, DomainHookServiceServer};
use virt_launcher::proto::plugins_v1alpha1::{MutateDomainRequest, MutateDomainResponse};
use virt_launcher::proto::{hooks_v1alpha1 as v1, hooks_v1alpha2 as v2, hooks_v1alpha3 as v3};

/// The double. Its calls are recorded as `<name> <call>` in the list that sidecars of a test share.
#[derive(Clone, Default)]
pub struct Sidecar {
    pub name: &'static str,
    pub versions: &'static [&'static str],
    /// Name and priority.
    pub points: &'static [(&'static str, i32)],
    /// What `OnDefineDomain` and `MutateDomain` put in the place of what.
    pub replaces: (&'static str, String),
    /// How long each callback takes.
    pub takes: Duration,
    /// Why callbacks fail.
    pub fails: Option<&'static str>,
    /// The call of `OnDefineDomain`, counted from 1, that fails once.
    pub fails_at: usize,
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl Sidecar {
    /// Listens at `socket` for as long as the runtime lives.
    pub fn serve(&self, socket: &Path) {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(socket, open).unwrap();
        let own = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (sidecar, path) = (own.clone(), request.uri().path().to_owned());
            macro_rules! route {
                ($($server:ty),*) => {
                    $(if path.split('/').nth(1) == Some(<$server>::NAME) {
                        return <$server>::new(sidecar).call(request);
                    })*
                };
            }
            route!(
                InfoServer<Sidecar>,
                v1::callbacks_server::CallbacksServer<Sidecar>,
                v2::callbacks_server::CallbacksServer<Sidecar>,
                v3::callbacks_server::CallbacksServer<Sidecar>,
                DomainHookServiceServer<Sidecar>
            );
            Box::pin(async { Ok(Status::unimplemented("no such service").into_http()) })
        });
        tokio::spawn(Server::builder().serve_with_incoming(service, listener));
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    async fn note(&self, call: String) -> Result<(), Status> {
        self.calls.lock().unwrap().push(format!("{} {call}", self.name));
        tokio::time::sleep(self.takes).await;
        self.fails.map_or(Ok(()), |why| Err(Status::unknown(why)))
    }

    async fn change(&self, version: &str, domain: Vec<u8>, vmi: &[u8]) -> Result<Vec<u8>, Status> {
        let vmi: serde_json::Value = serde_json::from_slice(vmi).unwrap();
        self.note(format!("OnDefineDomain {version} {}", vmi["metadata"]["name"].as_str().unwrap())).await?;
        if self.calls().iter().filter(|call| call.contains("OnDefineDomain")).count() == self.fails_at {
            return Err(Status::unknown("not this time"));
        }
        let (from, to) = &self.replaces;
        Ok(String::from_utf8(domain).unwrap().replace(from, to).into_bytes())
    }

    async fn change_cloud_init(&self, version: &str, source: Vec<u8>, data: Vec<u8>) -> Result<[Vec<u8>; 2], Status> {
        self.note(format!("PreCloudInitIso {version}")).await?;
        let changed = |json: Vec<u8>, key: &str| {
            let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let text = json[key].as_str().unwrap().to_owned();
            json[key] = format!("{text}echo changed by {}\n", self.name).into();
            json.to_string().into_bytes()
        };
        Ok([changed(source, "userData"), changed(data, "UserData")])
    }
}

#[tonic::async_trait]
impl Info for Sidecar {
    async fn info(&self, _: Request<InfoParams>) -> Result<Reply<InfoResult>, Status> {
        Ok(Reply::new(InfoResult {
            name: self.name.into(),
            hook_points: self
                .points
                .iter()
                .map(|(name, priority)| HookPoint { name: (*name).into(), priority: *priority })
                .collect(),
            versions: self.versions.iter().map(|version| (*version).into()).collect(),
        }))
    }
}

macro_rules! callbacks {
    ($package:ident: $($more:tt)*) => {
        #[tonic::async_trait]
        impl $package::callbacks_server::Callbacks for Sidecar {
            async fn on_define_domain(
                &self,
                request: Request<$package::OnDefineDomainParams>,
            ) -> Result<Reply<$package::OnDefineDomainResult>, Status> {
                let $package::OnDefineDomainParams { domain_xml, vmi } = request.into_inner();
                let domain_xml = self.change(stringify!($package), domain_xml, &vmi).await?;
                Ok(Reply::new($package::OnDefineDomainResult { domain_xml }))
            }
            $($more)*
        }
    };
}

macro_rules! pre_cloud_init_iso {
    ($package:ident: $($more:tt)*) => {
        callbacks! { $package:
            async fn pre_cloud_init_iso(
                &self,
                request: Request<$package::PreCloudInitIsoParams>,
            ) -> Result<Reply<$package::PreCloudInitIsoResult>, Status> {
                let $package::PreCloudInitIsoParams { cloud_init_no_cloud_source, vmi: _, cloud_init_data } =
                    request.into_inner();
                let [cloud_init_no_cloud_source, cloud_init_data] =
                    self.change_cloud_init(stringify!($package), cloud_init_no_cloud_source, cloud_init_data).await?;
                Ok(Reply::new($package::PreCloudInitIsoResult { cloud_init_no_cloud_source, cloud_init_data }))
            }
            $($more)*
        }
    };
}

callbacks! { v1: }
pre_cloud_init_iso! { v2: }
pre_cloud_init_iso! { v3:
    async fn shutdown(&self, _: Request<v3::ShutdownParams>) -> Result<Reply<v3::ShutdownResult>, Status> {
        self.note("Shutdown".into()).await?;
        Ok(Reply::new(v3::ShutdownResult {}))
    }
}

#[tonic::async_trait]
impl DomainHookService for Sidecar {
    async fn mutate_domain(
        &self,
        request: Request<MutateDomainRequest>,
    ) -> Result<Reply<MutateDomainResponse>, Status> {
        let MutateDomainRequest { domain_type, domain, vmi: _, sidecar_context } = request.into_inner();
        let context = sidecar_context.unwrap().invocation_context;
        self.note(format!("MutateDomain {domain_type} {context}")).await?;
        let (from, to) = &self.replaces;
        let domain = String::from_utf8(domain).unwrap().replace(from, to).into_bytes();
        Ok(Reply::new(MutateDomainResponse { domain }))
    }
}
