//! When a daemon that exited is started again: data and a pure function.

use std::time::Duration;

/// The policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// Before the first restart.
    pub delay: Duration,
    /// What each further delay is multiplied with.
    pub factor: f64,
    /// The longest delay.
    pub most: Duration,
    /// A daemon that ran this long is healthy: the count starts anew.
    pub healthy_after: Duration,
    /// Restarts in a row before the daemon counts as broken.
    pub limit: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            delay: Duration::from_millis(50),
            factor: 2.0,
            most: Duration::from_secs(5),
            healthy_after: Duration::from_secs(30),
            limit: 20,
        }
    }
}

/// How often a daemon was restarted without having been healthy in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts(u32);

impl Restarts {
    /// The delay before the next start of a daemon that has run for `ran`; `None` once the limit is reached.
    pub fn next(&mut self, policy: &RestartPolicy, ran: Duration) -> Option<Duration> {
        if ran >= policy.healthy_after {
            self.0 = 0;
        }
        if self.0 >= policy.limit {
            return None;
        }
        let exponent = i32::try_from(self.0).unwrap_or(i32::MAX);
        let seconds = policy.delay.as_secs_f64() * policy.factor.powi(exponent);
        self.0 += 1;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(policy.most).min(policy.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_health_forgives() {
        let policy = RestartPolicy { limit: 9, ..RestartPolicy::default() };
        let mut restarts = Restarts::default();
        let soon = Duration::ZERO;
        let delays: Vec<u128> =
            (0..9).filter_map(|_| restarts.next(&policy, soon)).map(|delay| delay.as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(restarts.next(&policy, soon), None);
        assert_eq!(restarts.next(&policy, policy.healthy_after), Some(policy.delay));
    }
}
