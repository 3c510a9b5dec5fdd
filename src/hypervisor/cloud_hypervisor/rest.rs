//! Cloud Hypervisor's own API: HTTP on a UNIX socket that libvirt made for it (contract/cloud-hypervisor.md 12). Queries
//! and actions that libvirt does not track may go beside libvirt's own.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest answer: a VM's whole configuration is far shorter.
const LONGEST: usize = 4 << 20;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// The socket has no listener.
    #[error("{request}: Cloud Hypervisor does not answer at {socket}: {why}")]
    Unreachable {
        /// The request's name.
        request: String,
        /// The socket.
        socket: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("{request}: Cloud Hypervisor answered {status}: {reason}")]
    Refused {
        /// The request's name.
        request: String,
        /// HTTP status.
        status: u16,
        /// What it says, from the general to the particular.
        reason: String,
    },
}

/// The API of one VMM.
#[derive(Debug, Clone)]
pub struct Rest {
    /// Its socket.
    pub socket: PathBuf,
    /// How long an answer may take.
    pub deadline: Duration,
}

impl Rest {
    /// An action without parameters, such as `vm.power-button`.
    pub async fn put(&self, action: &str) -> Result<(), RestError> {
        self.request("PUT", action).await.map(drop)
    }

    /// A query, such as `vm.info`.
    pub async fn get(&self, query: &str) -> Result<serde_json::Value, RestError> {
        let body = self.request("GET", query).await?;
        serde_json::from_str(&body).map_err(|error| self.unreachable(query, error))
    }

    fn unreachable(&self, request: &str, why: impl std::fmt::Display) -> RestError {
        let socket = self.socket.display().to_string();
        RestError::Unreachable { request: request.to_owned(), socket, why: why.to_string() }
    }

    async fn request(&self, method: &str, name: &str) -> Result<String, RestError> {
        let exchanged = match timeout(self.deadline, self.exchange(method, name)).await {
            Ok(exchanged) => exchanged,
            Err(_) => return Err(self.unreachable(name, format_args!("no answer within {:?}", self.deadline))),
        };
        let (status, body) = exchanged.map_err(|error| self.unreachable(name, error))?;
        match status {
            200..=299 => Ok(body),
            _ => Err(RestError::Refused { request: name.to_owned(), status, reason: reason(&body) }),
        }
    }

    async fn exchange(&self, method: &str, name: &str) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let length = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
        let request = format!("{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{length}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut received = Vec::new();
        loop {
            if let Some(answer) = parse(&received)? {
                return Ok(answer);
            }
            if received.len() > LONGEST || stream.read_buf(&mut received).await? == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no whole answer"));
            }
        }
    }
}

/// Status and body, once all is there.
fn parse(received: &[u8]) -> std::io::Result<Option<(u16, String)>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = received.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let nonsense = || std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is not HTTP");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(nonsense)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, length)| length.trim().parse::<usize>().map_err(|_| nonsense()))?;
    Ok(body.get(..length).map(|body| (status, String::from_utf8_lossy(body).into_owned())))
}

/// An error's body: a JSON list of texts, from the general to the particular; other bodies as they are.
pub fn reason(body: &str) -> String {
    let listed: Option<Vec<String>> = serde_json::from_str(body).ok();
    listed.map_or_else(|| body.trim().to_owned(), |texts| texts.join(": "))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// The request that arrives and what comes of this answer, after which the connection stays open or does not.
    async fn answered(answer: &'static str, stays_open: bool) -> (String, Result<serde_json::Value, RestError>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            for part in answer.as_bytes().chunks(7) {
                stream.write_all(part).await.unwrap();
            }
            (String::from_utf8_lossy(&request[..length]).into_owned(), stays_open.then_some(stream))
        });
        let rest = Rest { socket, deadline: Duration::from_secs(5) };
        let result = rest.get("vm.info").await;
        (served.await.unwrap().0, result)
    }

    #[tokio::test]
    async fn answers_come_in_pieces_and_the_connection_stays_open() {
        let (request, result) =
            answered("HTTP/1.1 200 \r\nServer: x\r\ncontent-length: 19\r\n\r\n{\"state\":\"Running\"}", true).await;
        assert!(request.starts_with("GET /api/v1/vm.info HTTP/1.1\r\n"), "{request}");
        assert_eq!(result.unwrap()["state"], "Running");
    }

    #[tokio::test]
    async fn refusals_tell_the_reason_and_silence_names_the_socket() {
        let (_, refused) = answered("HTTP/1.1 500 x\r\nContent-Length: 19\r\n\r\n[\"outer\", \"inner\"] ", true).await;
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "vm.info: Cloud Hypervisor answered 500: outer: inner");
        let (_, broken) = answered("HTTP/1.1 200 x\r\nContent-Length: 20\r\n\r\n{}", false).await;
        assert!(broken.unwrap_err().to_string().contains("no whole answer"));
        let rest = Rest { socket: "/nonexistent/s".into(), deadline: Duration::from_secs(5) };
        let text = rest.put("vm.pause").await.unwrap_err().to_string();
        assert!(text.contains("vm.pause") && text.contains("/nonexistent/s"), "{text}");
    }
}
