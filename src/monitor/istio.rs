//! Ends an Istio proxy beside us, which would keep the pod alive otherwise (contract/lifecycle.md 8.4 step 4).
//!
//! Unlike the original, a refused connection is believed at once: pods without Istio lose no time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::logging::Logger;

/// Where the proxy's agent listens, and how patient we are with it.
#[derive(Debug, Clone)]
pub struct Istio {
    /// Answers `GET /healthz/ready`.
    pub health_port: u16,
    /// Takes `POST /quitquitquit`.
    pub quit_port: u16,
    /// For one exchange, from connect to answer.
    pub limit: Duration,
    /// Before the second, third, … try.
    pub pauses: &'static [Duration],
}

const PAUSES: &[Duration] = &[Duration::from_millis(50), Duration::from_millis(250), Duration::from_millis(1250)];

impl Default for Istio {
    fn default() -> Self {
        Istio { health_port: 15021, quit_port: 15020, limit: Duration::from_secs(2), pauses: PAUSES }
    }
}

/// Longest head of an answer that is read.
const HEAD_LIMIT: usize = 16 * 1024;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    server: String,
}

/// Tells the proxy to quit, if there is one.
pub fn quit(log: &Logger, istio: &Istio) {
    let health = retried(istio.pauses, is_broken, || exchange("GET", istio.health_port, "/healthz/ready", istio.limit));
    match health {
        Ok(reply) if reply.server.eq_ignore_ascii_case("envoy") => {}
        Ok(_) => return,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
        Err(error) => {
            return log.warning(&format!("cannot find out whether an istio proxy runs: {error}"));
        }
    }
    // The proxy is there, so that a refusal, too, is a passing state of it.
    let passing = |result: &io::Result<Reply>| match result {
        Ok(reply) => reply.status == 503,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused || is_broken(result),
    };
    match retried(istio.pauses, passing, || exchange("POST", istio.quit_port, "/quitquitquit", istio.limit)) {
        Ok(reply) if reply.status == 200 => {}
        Ok(reply) => log.error("cannot end the istio proxy", &format!("it answered {}", reply.status)),
        Err(error) => log.error("cannot end the istio proxy", &error),
    }
}

/// Whether the exchange was cut off, which may be better the next time.
fn is_broken(result: &io::Result<Reply>) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(result, Err(error) if matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof))
}

fn retried(
    pauses: &[Duration],
    again: impl Fn(&io::Result<Reply>) -> bool,
    mut attempt: impl FnMut() -> io::Result<Reply>,
) -> io::Result<Reply> {
    let mut result = attempt();
    for pause in pauses {
        if !again(&result) {
            break;
        }
        std::thread::sleep(*pause);
        result = attempt();
    }
    result
}

/// One request to `localhost`, within `limit`.
fn exchange(method: &str, port: u16, path: &str, limit: Duration) -> io::Result<Reply> {
    let deadline = Instant::now() + limit;
    let mut stream = connect(port, deadline)?;
    let left = time_left(deadline)?;
    stream.set_write_timeout(Some(left))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: virt-launcher-monitor\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        stream.set_read_timeout(Some(time_left(deadline)?))?;
        let count = match stream.read(&mut part) {
            Ok(count) => count,
            // How a read timeout shows on Linux.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        };
        head.extend_from_slice(part.get(..count).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            head.truncate(end);
            return parse(&String::from_utf8_lossy(&head));
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.len() > HEAD_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer has no end"));
        }
    }
}

/// Both addresses of `localhost`, without a resolver.
fn connect(port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let to = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), time_left(deadline)?);
    let first = to(Ipv4Addr::LOCALHOST.into());
    match &first {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return first,
    }
    // Without IPv6 the first refusal stands.
    to(Ipv6Addr::LOCALHOST.into()).or(first)
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn parse(head: &str) -> io::Result<Reply> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its answer is not HTTP"))?;
    let server = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("server"))
        .map(|(_, value)| value.trim().to_owned());
    Ok(Reply { status, server: server.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    const NO_PAUSES: &[Duration] = &[Duration::ZERO, Duration::ZERO, Duration::ZERO];

    fn log() -> Logger {
        Logger::new("virt-launcher-monitor", 0)
    }

    /// Answers one connection with each text (an empty one: closes it at once) and returns the request lines.
    fn server(answers: &'static [&'static str]) -> (u16, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                reader.read_line(&mut first).unwrap();
                for line in reader.lines() {
                    if line.unwrap().is_empty() {
                        break;
                    }
                }
                requests.push(first.trim_end().to_owned());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (port, thread)
    }

    fn istio(health_port: u16, quit_port: u16) -> Istio {
        Istio { health_port, quit_port, limit: Duration::from_secs(20), pauses: NO_PAUSES }
    }

    /// A port without a listener.
    fn free_port() -> u16 {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn proxy_is_told_to_quit_until_it_listens() {
        let (health, asked) = server(&["", "HTTP/1.1 200 OK\r\nServer: envoy\r\n\r\n"]);
        let (port, told) = server(&["HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]);
        quit(&log(), &istio(health, port));
        assert_eq!(asked.join().unwrap(), ["GET /healthz/ready HTTP/1.1"; 2]);
        assert_eq!(told.join().unwrap(), ["POST /quitquitquit HTTP/1.1"; 2]);
    }

    #[test]
    fn another_server_is_left_alone() {
        let (health, asked) = server(&["HTTP/1.1 200 OK\r\nserver: nginx\r\n\r\n"]);
        let quits = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        quits.set_nonblocking(true).unwrap();
        quit(&log(), &istio(health, quits.local_addr().unwrap().port()));
        assert_eq!(asked.join().unwrap().len(), 1);
        assert_eq!(quits.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn refusal_is_believed_at_once() {
        // A pause would be noticed.
        const LONG: &[Duration] = &[Duration::from_secs(3600)];
        quit(&log(), &Istio { pauses: LONG, ..istio(free_port(), free_port()) });
    }

    #[test]
    fn silence_and_nonsense_end_in_time() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let error = exchange("GET", port, "/", Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (port, thread) = server(&["SSH-2.0-x\r\n\r\n"]);
        let error = exchange("GET", port, "/", Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        thread.join().unwrap();
    }
}
