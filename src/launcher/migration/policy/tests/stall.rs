//! Rules of 7.4. Speeds are bytes per second, so that 10 000 bytes at 1000 need 10 000 ms.

use super::*;

fn policy(extra: &str, facts: Facts) -> Policy {
    Policy::new(&options(&format!(r#"{{"StallDetectorOptions":{{}},"CompletionTimeoutPerGiB":1000{extra}}}"#)), &facts)
}

/// A look that is not due to an event.
fn poll(seconds: u64, speed: u64) -> Look {
    look(seconds, Some(JobSample { memory_bps: Some(speed), ..job(seconds, 10_000) }))
}

fn iteration(seconds: u64, remaining: u64) -> Look {
    Look { iteration: true, ..look(seconds, Some(job(seconds, remaining))) }
}

/// A migration whose next iteration, at 41 s, stalls unless it brings 4 % less than 10 000 bytes.
fn about_to_stall(extra: &str, facts: Facts) -> Policy {
    let mut policy = policy(extra, facts);
    assert_eq!(follow(&mut policy, poll(0, 1000)).len(), 1);
    assert!(follow(&mut policy, iteration(1, 10_000)).is_empty());
    policy
}

const DISRUPTION: &str = r#","AllowWorkloadDisruption":true"#;
const POST_COPY_ALLOWED: &str = r#","AllowPostCopy":true,"AllowWorkloadDisruption":true"#;
const POST_COPY_ALONE: &str = r#","AllowPostCopy":true,"AllowWorkloadDisruption":false"#;

#[test]
fn first_downtime_is_at_most_qemus_default_and_tried_until_it_is_set() {
    for (extra, first) in [("", 300), (r#","MaxDowntimeMs":200"#, 200), (r#","MaxDowntimeMs":5000"#, 300)] {
        let mut policy = policy(extra, facts());
        for _ in 0..2 {
            let steps = policy.look(&look(0, None));
            assert_eq!(orders(&steps), [downtime(first)]);
            assert_eq!(steps[0].announcement(), None);
            policy.done(&steps[0], false);
        }
        assert_eq!(follow(&mut policy, look(1, None)), [downtime(first)]);
        assert!(follow(&mut policy, look(2, None)).is_empty());
    }
}

#[test]
fn pause_by_qemus_switch_over_is_the_mode() {
    for (paused_before, state, mode) in [
        (false, PAUSED_BY_MIGRATION, Mode::Paused),
        (false, DomainState::new(LifeCycle::Paused, StateReason::User), Mode::PreCopy),
        (false, DomainState::RUNNING, Mode::PreCopy),
        (false, POST_COPY, Mode::PostCopy),
        (true, PAUSED_BY_MIGRATION, Mode::PreCopy),
    ] {
        let mut policy = policy("", Facts { paused: paused_before, ..facts() });
        // An abort that is pending does not change what is seen.
        policy.look(&Look { state: Some(state), abort_pending: true, ..moving(0) });
        assert_eq!(policy.mode(), mode, "{state:?}");
        policy.look(&moving(1));
        assert_eq!(policy.mode(), mode, "{state:?}");
    }
}

#[test]
fn stalled_iteration_is_decided_by_what_is_allowed() {
    let vfio = Facts { vfio: true, ..facts() };
    for (extra, facts, order) in [
        (POST_COPY_ALLOWED, facts(), Order::StartPostCopy),
        (POST_COPY_ALLOWED, vfio, downtime(2_000_000)),
        (POST_COPY_ALLOWED, Facts { post_copy_armed: false, ..facts() }, downtime(2_000_000)),
        (DISRUPTION, facts(), downtime(2_000_000)),
        (POST_COPY_ALONE, facts(), Order::Cancel),
        ("", facts(), Order::Cancel),
        (r#","MaxDowntimeMs":10000"#, facts(), downtime(10_000)),
        // 1.5 times as long is still tolerated.
        (r#","MaxDowntimeMs":6667"#, facts(), downtime(6667)),
        (r#","MaxDowntimeMs":6666"#, facts(), Order::Cancel),
    ] {
        let mut policy = about_to_stall(extra, facts);
        assert_eq!(follow(&mut policy, iteration(41, 10_000)), [order], "{extra}");
    }
}

#[test]
fn iteration_that_does_not_stall_is_left_alone() {
    for look in [
        // 4 % less.
        iteration(41, 9_599),
        // The window is not over.
        iteration(40, 10_000),
        // No event.
        poll(41, 1000),
        // Statistics that lack something.
        Look { job: Some(JobSample { time_elapsed: None, ..job(41, 10_000) }), ..iteration(41, 0) },
        Look { job: Some(JobSample { data_remaining: None, ..job(41, 10_000) }), ..iteration(41, 0) },
        Look { job: Some(JobSample { memory_iteration: None, ..job(41, 10_000) }), ..iteration(41, 0) },
        Look { job: None, ..iteration(41, 0) },
        Look { abort_pending: true, ..iteration(41, 10_000) },
    ] {
        assert!(follow(&mut about_to_stall(DISRUPTION, facts()), look).is_empty(), "{look:?}");
    }
}

#[test]
fn switch_over_waits_for_a_local_minimum() {
    let mut policy = about_to_stall(DISRUPTION, facts());
    // The target is 10 000 and its margin 4 %.
    assert!(follow(&mut policy, iteration(41, 10_401)).is_empty());
    assert_eq!(follow(&mut policy, iteration(42, 10_400)), [downtime(2_000_000)]);
    let mut policy = self::policy(DISRUPTION, facts());
    let options = options(
        r#"{"StallDetectorOptions":{"SearchLocalMinima":false},"CompletionTimeoutPerGiB":1000,"AllowWorkloadDisruption":true}"#,
    );
    policy.clone_from(&Policy::new(&options, &facts()));
    follow(&mut policy, poll(0, 1000));
    follow(&mut policy, iteration(1, 10_000));
    assert_eq!(follow(&mut policy, iteration(41, 20_000)), [downtime(2_000_000)]);
}

#[test]
fn switch_over_waits_until_the_rest_fits_before_the_last_deadline() {
    // 5 s, twice that with the factor; at 2 s there are 8 s left.
    for (speed, orders) in [(1000, vec![]), (1250, vec![downtime(2_000_000)])] {
        let options = options(
            r#"{"StallDetectorOptions":{"StallProgressTimeout":1},"CompletionTimeoutPerGiB":5,"AllowWorkloadDisruption":true}"#,
        );
        let mut policy = Policy::new(&options, &facts());
        follow(&mut policy, poll(0, speed));
        follow(&mut policy, iteration(1, 10_000));
        assert_eq!(follow(&mut policy, iteration(2, 10_000)), orders, "{speed}");
    }
}

#[test]
fn speed_is_smoothed_from_polls_before_the_switch_over_only() {
    let mut policy = policy("", facts());
    follow(&mut policy, look(0, Some(JobSample { memory_bps: Some(0), ..job(0, 1) })));
    follow(&mut policy, poll(0, 1000));
    // 0.4 · 2000 + 0.6 · 1000
    follow(&mut policy, poll(0, 2000));
    let fast = |look: Look| Look { job: look.job.map(|job| JobSample { memory_bps: Some(1 << 40), ..job }), ..look };
    follow(&mut policy, fast(iteration(1, 14_000)));
    let steps = policy.look(&fast(iteration(41, 14_000)));
    assert!(steps[0].reason.starts_with("stalled, the rest needs about 10000 ms, at most 900 ms are allowed: "));
}

#[test]
fn switch_over_that_was_brought_about_has_a_deadline_of_its_own() {
    for extra in [DISRUPTION, r#","MaxDowntimeMs":10000"#] {
        let mut policy = about_to_stall(extra, facts());
        assert_eq!(follow(&mut policy, iteration(41, 10_000)).len(), 1);
        assert!(follow(&mut policy, iteration(60, 10_000)).is_empty());
        assert!(follow(&mut policy, poll(101, 1000)).is_empty());
        // Once the guest is paused the whole time counts.
        let paused = |seconds| Look { state: Some(PAUSED_BY_MIGRATION), ..poll(seconds, 1000) };
        let mut other = policy.clone();
        assert_eq!(follow(&mut policy, poll(102, 1000)), [Order::Cancel], "{extra}");
        assert!(follow(&mut other, paused(102)).is_empty());
        assert!(follow(&mut other, paused(1000)).is_empty());
        assert_eq!(follow(&mut other, paused(1001)), [Order::Cancel], "{extra}");
    }
}

#[test]
fn switch_over_that_failed_is_tried_at_the_next_iteration() {
    for (extra, order) in [(DISRUPTION, downtime(2_000_000)), (POST_COPY_ALLOWED, Order::StartPostCopy)] {
        let mut policy = about_to_stall(extra, facts());
        let steps = policy.look(&iteration(41, 10_000));
        assert!(policy.done(&steps[0], false).is_some());
        assert!(follow(&mut policy, poll(42, 1000)).is_empty());
        assert_eq!(follow(&mut policy, iteration(43, 10_000)), [order]);
    }
}

#[test]
fn completion_time_out_is_decided_by_what_is_allowed() {
    let vfio = Facts { vfio: true, ..facts() };
    // At 1001 s there are 999 s left; 10 000 bytes fit at 11 per second, not at 9.
    for (extra, facts, speed, order) in [
        (POST_COPY_ALLOWED, facts(), 11, Order::StartPostCopy),
        (POST_COPY_ALLOWED, facts(), 9, Order::Cancel),
        (POST_COPY_ALLOWED, facts(), 0, Order::Cancel),
        (POST_COPY_ALLOWED, vfio, 11, downtime(2_000_000)),
        // Here post-copy needs no leave to disrupt.
        (POST_COPY_ALONE, facts(), 11, Order::StartPostCopy),
        (POST_COPY_ALONE, vfio, 11, Order::Cancel),
        (DISRUPTION, facts(), 11, downtime(2_000_000)),
        (DISRUPTION, facts(), 9, Order::Cancel),
        ("", facts(), 11, Order::Cancel),
    ] {
        let mut policy = policy(extra, facts);
        follow(&mut policy, poll(0, speed));
        assert!(follow(&mut policy, poll(1000, speed)).is_empty(), "{extra}");
        assert_eq!(follow(&mut policy, poll(1001, speed)), [order], "{extra} {speed}");
    }
}

#[test]
fn completion_time_out_judges_by_the_last_iteration() {
    let mut policy = policy(DISRUPTION, facts());
    follow(&mut policy, poll(0, 11));
    // 1 s long at 11 bytes per second, whatever polls say since.
    follow(&mut policy, iteration(1, 11));
    let much = JobSample { memory_bps: Some(11), ..job(1001, 1_000_000) };
    assert_eq!(follow(&mut policy, look(1001, Some(much))), [downtime(2_000_000)]);
}

#[test]
fn paused_guests_polls_tell_what_remains_but_not_the_speed() {
    let mut policy = policy(DISRUPTION, facts());
    follow(&mut policy, poll(0, 1000));
    // Far too much, when it was seen.
    follow(&mut policy, iteration(1, 10_000_000));
    // 900 s at the speed before the pause fit into the 999 s that are left.
    let rest = JobSample { memory_bps: Some(1), ..job(1001, 900_000) };
    let paused = Look { state: Some(PAUSED_BY_MIGRATION), ..look(1001, Some(rest)) };
    assert_eq!(follow(&mut policy, paused), [downtime(2_000_000)]);
}

#[test]
fn last_attempt_has_the_scaled_time() {
    let mut policy = policy(DISRUPTION, facts());
    follow(&mut policy, poll(0, 1000));
    assert_eq!(follow(&mut policy, poll(1001, 1000)), [downtime(2_000_000)]);
    assert!(follow(&mut policy, poll(1061, 1000)).is_empty());
    let mut paused = policy.clone();
    assert_eq!(follow(&mut policy, poll(1062, 1000)), [Order::Cancel]);
    let look = |seconds| Look { state: Some(PAUSED_BY_MIGRATION), ..poll(seconds, 1000) };
    assert!(follow(&mut paused, look(2000)).is_empty());
    assert_eq!(follow(&mut paused, look(2001)), [Order::Cancel]);
}

#[test]
fn post_copy_ends_all_decisions() {
    let mut policy = about_to_stall(POST_COPY_ALLOWED, facts());
    assert_eq!(follow(&mut policy, iteration(41, 10_000)), [Order::StartPostCopy]);
    for seconds in [42, 1001, 1_000_000] {
        assert!(follow(&mut policy, iteration(seconds, 10_000)).is_empty());
        assert!(follow(&mut policy, look(seconds, None)).is_empty());
    }
}

#[test]
fn vfio_is_warned_of() {
    assert!(matches!(&policy("", Facts { vfio: true, ..facts() }).opening()[..], [Notice::Warning(_)]));
    assert!(policy("", facts()).opening().is_empty());
}
