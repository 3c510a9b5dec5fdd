//! Who may talk to the guest agent: one call at a time, and orders before background questions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::Error;

/// How long each part of an order to the agent may take that has a second way. Together they stay below the 5 s after which
/// virt-handler repeats a shutdown, and well below the shortest grace period that anybody sets.
#[derive(Debug, Clone, Copy)]
pub struct AgentOrder {
    /// For the turn: a question that the agent does not answer holds it for longer.
    pub turn: Duration,
    /// For the agent to show that it is awake, in whole seconds.
    pub awake: Duration,
    /// For the agent to refuse.
    pub refusal: Duration,
}

impl Default for AgentOrder {
    fn default() -> Self {
        AgentOrder { turn: Duration::from_secs(1), awake: Duration::from_secs(2), refusal: Duration::from_millis(800) }
    }
}

/// The one turn, and who waits for it.
pub(super) struct AgentTurns {
    turn: Arc<Semaphore>,
    /// The call that had the last turn.
    holder: Mutex<&'static str>,
    /// How many orders wait for the turn.
    orders: watch::Sender<usize>,
}

impl Default for AgentTurns {
    fn default() -> Self {
        AgentTurns { turn: Arc::new(Semaphore::new(1)), holder: Mutex::default(), orders: watch::Sender::default() }
    }
}

/// An order that waits, counted while this lives.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn begin(orders: &'a watch::Sender<usize>) -> Self {
        orders.send_modify(|count| *count += 1);
        Waiting(orders)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl AgentTurns {
    /// Takes the turn for `call`; a call in the `background` lets every order pass that waits.
    pub(super) async fn take(
        &self,
        call: &'static str,
        background: bool,
        within: Duration,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let turn = async { if background { self.after_orders().await } else { self.as_order().await } };
        match tokio::time::timeout(within, turn).await {
            Ok(Some(turn)) => {
                *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = call;
                Ok(turn)
            }
            Ok(None) | Err(_) => {
                let holder = *self.holder.lock().unwrap_or_else(PoisonError::into_inner);
                Err(Error::AgentBusy { call, holder, after: within })
            }
        }
    }

    async fn as_order(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::begin(&self.orders);
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    async fn after_orders(&self) -> Option<OwnedSemaphorePermit> {
        let mut orders = self.orders.subscribe();
        loop {
            orders.wait_for(|waiting| *waiting == 0).await.ok()?;
            let turn = Arc::clone(&self.turn).acquire_owned().await.ok()?;
            // An order may have come while this waited for its turn.
            if *self.orders.borrow() == 0 {
                return Some(turn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn order_passes_by_the_questions_that_waited_before_it() {
        let turns = Arc::new(AgentTurns::default());
        let under_way = turns.take("question", true, SOON).await.unwrap();
        let order_taken = Arc::new(Mutex::new(Vec::new()));
        let wait = |call, background| {
            let (turns, taken) = (Arc::clone(&turns), Arc::clone(&order_taken));
            tokio::spawn(async move {
                let turn = turns.take(call, background, SOON).await.unwrap();
                taken.lock().unwrap().push(call);
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(turn);
            })
        };
        let mut waiting = Vec::new();
        for (call, background) in [("one", true), ("two", true), ("order", false), ("three", true), ("other", false)] {
            waiting.push(wait(call, background));
            tokio::task::yield_now().await;
        }
        drop(under_way);
        for task in waiting {
            task.await.unwrap();
        }
        let taken = order_taken.lock().unwrap();
        assert_eq!(taken[..2], ["order", "other"]);
        assert_eq!(taken.len(), 5, "every question has its turn in the end");
    }

    #[tokio::test(start_paused = true)]
    async fn order_without_a_turn_names_the_holder_and_leaves_no_trace() {
        let turns = AgentTurns::default();
        let held = turns.take("virDomainFSFreeze", false, SOON).await.unwrap();
        let busy = turns.take("virDomainShutdownFlags", false, SOON).await.unwrap_err();
        let Error::AgentBusy { call, holder, after } = busy else { panic!("{busy}") };
        assert_eq!((call, holder, after), ("virDomainShutdownFlags", "virDomainFSFreeze", SOON));
        drop(held);
        drop(turns.take("question", true, SOON).await.expect("the order that gave up must not hold questions back"));
    }
}
