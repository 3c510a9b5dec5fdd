//! The tasks without which a launcher only repeats what it knew, and notifies nobody.

use tokio::task::{JoinError, JoinHandle};

/// Each of these tasks runs as long as the main line. A launcher cannot be built without all three handles.
#[derive(Debug)]
pub struct CoreTasks {
    /// Publishes the domain's state and notifies virt-handler.
    pub publisher: JoinHandle<()>,
    /// Asks the guest agent.
    pub guest_poller: JoinHandle<()>,
    /// Runs the operations that virt-handler orders.
    pub driver: JoinHandle<()>,
}

impl CoreTasks {
    /// Waits for the end of any of them. Returns which one ended and why. Dropping this does not end the tasks: they serve the
    /// orderly shutdown, during which their end has no meaning.
    pub async fn first_end(self) -> String {
        let CoreTasks { publisher, guest_poller, driver } = self;
        tokio::select! {
            ended = publisher => describe("publisher", ended),
            ended = guest_poller => describe("guest agent poller", ended),
            ended = driver => describe("driver", ended),
        }
    }
}

fn describe(name: &str, ended: Result<(), JoinError>) -> String {
    match ended {
        Ok(()) => format!("the {name} returned too early"),
        Err(error) => format!("the {name} failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> CoreTasks {
        let task = || tokio::spawn(std::future::pending());
        CoreTasks { publisher: task(), guest_poller: task(), driver: task() }
    }

    #[tokio::test]
    async fn first_end_names_the_task_that_panicked_and_its_message() {
        let broken = || tokio::spawn(async { panic!("a broken invariant") });
        for (tasks, name) in [
            (CoreTasks { publisher: broken(), ..idle() }, "publisher"),
            (CoreTasks { guest_poller: broken(), ..idle() }, "guest agent poller"),
            (CoreTasks { driver: broken(), ..idle() }, "driver"),
        ] {
            let why = tasks.first_end().await;
            assert!(why.starts_with(&format!("the {name} failed: ")), "{why}");
            assert!(why.contains("a broken invariant"), "{why}");
        }
    }

    #[tokio::test]
    async fn first_end_names_a_task_that_returned_or_was_aborted() {
        let returned = CoreTasks { driver: tokio::spawn(async {}), ..idle() };
        assert_eq!(returned.first_end().await, "the driver returned too early");
        let aborted = idle();
        aborted.publisher.abort();
        let why = aborted.first_end().await;
        assert!(why.starts_with("the publisher failed: "), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn first_end_waits_while_all_tasks_run() {
        let waited = tokio::time::timeout(std::time::Duration::from_secs(3600), idle().first_end()).await;
        assert!(waited.is_err(), "{waited:?}");
    }
}
