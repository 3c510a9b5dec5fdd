//! The sockets in the source's pod, and who answers there: the target.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::line::{Line, Stream, carry};
use super::pod::{Listening, Pod};
use super::remote::Remote;

/// The target's side: on this machine, or behind a port of another one.
pub(super) enum Target {
    Here(Pod),
    There(Remote),
}

impl Target {
    pub(super) async fn dial(&self, line: Line, uid: &str) -> io::Result<Stream> {
        match self {
            Target::Here(pod) => Ok(Stream::new(pod.dial(line, uid).await?)),
            Target::There(remote) => Ok(remote.dial(line, uid).await?.0),
        }
    }
}

/// Carries what libvirt and QEMU of the source send to the target, until it is dropped.
pub(super) struct Bridge(#[expect(dead_code, reason = "its end is what it is kept for")] JoinSet<()>);

impl Bridge {
    /// Listens in the pod of the source; the target is dialled for each connection, since QEMU there listens late.
    pub(super) fn new(source: &Pod, target: &Arc<Target>, uid: &str, lines: &[Line]) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        for line in lines {
            let Some(channel) = line.channel() else { continue };
            let listening = source.listen(channel, uid)?;
            tasks.spawn(serve(listening, *line, Arc::clone(target), uid.to_owned()));
        }
        Ok(Bridge(tasks))
    }
}

async fn serve(listening: Listening, line: Line, target: Arc<Target>, uid: String) {
    let mut connections = JoinSet::new();
    loop {
        let near = tokio::select! {
            accepted = listening.listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match near {
            Ok((near, _)) => {
                let (target, uid) = (Arc::clone(&target), uid.clone());
                connections.spawn(async move {
                    match target.dial(line, &uid).await {
                        Ok(far) => carry(near, far).await,
                        // The connection closes, as with virt-handler's proxy; libvirt says what that means.
                        Err(error) => eprintln!("{} connection: {error}", line.name()),
                    }
                });
            }
            Err(error) => {
                eprintln!("{} connection: {error}", line.name());
                return;
            }
        }
    }
}
