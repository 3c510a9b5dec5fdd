//! Sets the guest's clock after a pause (contract/cmd-server.md 4.4), in the background.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::operations::Vm;
use crate::libvirt::code;

/// How often, and for how long, the guest agent is asked before it is left alone.
const ATTEMPTS: u32 = 60;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the background attempts. Each unpause has its own; the guest's clock stood still in each.
pub fn synchronise(vm: &Vm) {
    let (connection, domain) = (vm.connection.clone(), vm.domain.clone());
    tokio::spawn(async move {
        for _ in 0..ATTEMPTS {
            tokio::time::sleep(PAUSE).await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let nanoseconds = i32::try_from(now.subsec_nanos()).unwrap_or_default();
            match connection.set_time(&domain, now.as_secs().cast_signed(), nanoseconds).await {
                Ok(()) => return tracing::info!("guest clock set after the pause"),
                Err(error) => match error.code() {
                    Some(code::OPERATION_UNSUPPORTED | code::ARGUMENT_UNSUPPORTED | code::NO_DOMAIN) | None => return,
                    Some(_) => tracing::debug!("guest clock not set yet: {error}"),
                },
            }
        }
    });
}
