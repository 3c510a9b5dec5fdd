//! The services of the command socket, and the net under them: a call whose code panics costs its caller an error and
//! nobody else anything.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tower::Service;
use tracing::error;

use super::Driver;
use super::activity::Calls;
use super::service::{CmdService, InfoService};
use crate::proto::cmd_info::cmd_info_server::CmdInfoServer;
use crate::proto::cmd_v1::cmd_server::CmdServer;
use crate::proto::pair::{Answering, Pair};

/// What a message may have at most; grpc-go's default, which all clients of this service count on.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Both services of the command socket.
#[derive(Clone)]
pub(super) struct Dispatch {
    services: Pair<CmdInfoServer<InfoService>, CmdServer<CmdService>>,
}

impl Dispatch {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Self {
        let info = CmdInfoServer::new(InfoService);
        let cmd = CmdServer::new(CmdService::new(driver)).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Dispatch { services: Pair::new(info, cmd) }
    }
}

impl Service<http::Request<Body>> for Dispatch {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let path = request.uri().path().to_owned();
        if let Some(calls) = request.extensions().get::<Calls>() {
            calls.note(path.ends_with("/DeleteVirtualMachine"));
        }
        Box::pin(catch_panics(path, self.services.call(request)))
    }
}

/// `answer`, or gRPC status Internal if it panics.
async fn catch_panics(path: String, mut answer: Answering) -> Result<http::Response<Body>, Infallible> {
    // After a panic the future is never polled again, so a state that it left half-changed is never seen; what it shares
    // with others is behind channels.
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => {
            let why = reason(&*panic);
            error!("{path}: panicked: {why}");
            Poll::Ready(Ok(Status::internal(format!("{path}: internal error: {why}")).into_http()))
        }
    })
    .await
}

fn reason(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}
