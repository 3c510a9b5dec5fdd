//! Two services on one socket: version negotiation and the protocol itself. That needs no router crate.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tower::Service;

/// Sends each request to the service that its path names; a path of neither is gRPC status Unimplemented.
#[derive(Debug, Clone)]
pub struct Pair<A, B> {
    first: A,
    second: B,
}

impl<A, B> Pair<A, B> {
    /// Both services; their names must differ.
    pub fn new(first: A, second: B) -> Self {
        Pair { first, second }
    }
}

/// What a generated service answers with.
pub type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<A, B> Service<http::Request<Body>> for Pair<A, B>
where
    A: NamedService
        + Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future = Answering>,
    B: NamedService
        + Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        if service == Some(A::NAME) {
            self.first.call(request)
        } else if service == Some(B::NAME) {
            self.second.call(request)
        } else {
            let status = Status::unimplemented(format!("unknown service or method {path}"));
            Box::pin(async move { Ok(status.into_http()) })
        }
    }
}
