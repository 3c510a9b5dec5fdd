//! Rows of 7.2.

use super::*;

/// A policy whose job began at 0, with an acceptable time of 100 s.
fn policy(extra: &str, facts: Facts) -> Policy {
    let options = format!(r#"{{"CompletionTimeoutPerGiB":100,"ProgressTimeout":150{extra}}}"#);
    let mut policy = Policy::new(&self::options(&options), &facts);
    assert!(follow(&mut policy, moving(0)).is_empty());
    policy
}

const DISRUPTION: &str = r#","AllowWorkloadDisruption":true"#;
const POST_COPY_ALLOWED: &str = r#","AllowWorkloadDisruption":true,"AllowPostCopy":true"#;

#[test]
fn row_1_post_copy_is_never_timed_out() {
    let mut policy = policy(POST_COPY_ALLOWED, facts());
    assert_eq!(follow(&mut policy, moving(101)), [Order::StartPostCopy]);
    assert_eq!(policy.mode(), Mode::PostCopy);
    for seconds in [102, 500, 1_000_000] {
        assert!(follow(&mut policy, look(seconds, None)).is_empty());
        assert!(follow(&mut policy, look(seconds, Some(job(101, 1000)))).is_empty());
    }
    assert!(!policy.may_cancel());
}

#[test]
fn row_2_depends_on_what_is_allowed() {
    let vfio = Facts { vfio: true, ..facts() };
    for (extra, facts, order, mode) in [
        (POST_COPY_ALLOWED, facts(), Order::StartPostCopy, Mode::PostCopy),
        (POST_COPY_ALLOWED, vfio, downtime(200_000), Mode::Paused),
        (DISRUPTION, vfio, downtime(200_000), Mode::Paused),
        (DISRUPTION, facts(), Order::Suspend, Mode::Paused),
        // Without the flag libvirt refuses the switch.
        (POST_COPY_ALLOWED, Facts { post_copy_armed: false, ..facts() }, Order::Suspend, Mode::Paused),
        // Post-copy alone is no leave to disrupt.
        (r#","AllowPostCopy":true,"AllowWorkloadDisruption":false"#, facts(), Order::Cancel, Mode::PreCopy),
        ("", facts(), Order::Cancel, Mode::PreCopy),
    ] {
        let mut policy = policy(extra, facts);
        assert!(follow(&mut policy, moving(100)).is_empty(), "{extra}");
        assert_eq!(follow(&mut policy, moving(101)), [order], "{extra}");
        assert_eq!(policy.mode(), mode, "{extra}");
    }
}

#[test]
fn row_2_asks_qemu_for_no_more_than_its_longest_downtime() {
    let vfio = Facts { vfio: true, ..facts() };
    let options = options(r#"{"CompletionTimeoutPerGiB":1001,"AllowWorkloadDisruption":true}"#);
    let mut policy = Policy::new(&options, &vfio);
    follow(&mut policy, moving(0));
    assert_eq!(follow(&mut policy, moving(1002)), [downtime(2_000_000)]);
}

#[test]
fn row_2_that_failed_is_tried_again() {
    for (extra, facts) in
        [(POST_COPY_ALLOWED, facts()), (DISRUPTION, facts()), (DISRUPTION, Facts { vfio: true, ..facts() })]
    {
        let mut policy = policy(extra, facts);
        let steps = policy.look(&moving(101));
        assert!(matches!(policy.done(&steps[0], false), Some(Notice::Warning(_))));
        assert_eq!(policy.mode(), Mode::PreCopy);
        assert_eq!(orders(&policy.look(&moving(102))), orders(&steps), "{extra}");
    }
}

#[test]
fn row_2_doubles_the_time_of_a_paused_guest() {
    for facts in [facts(), Facts { vfio: true, ..facts() }] {
        let mut policy = policy(DISRUPTION, facts);
        follow(&mut policy, moving(101));
        assert_eq!(policy.mode(), Mode::Paused);
        assert!(follow(&mut policy, moving(200)).is_empty());
        assert_eq!(follow(&mut policy, moving(201)), [Order::Cancel]);
    }
}

#[test]
fn row_3_cancels_a_job_that_moves_nothing() {
    for (timeout, still, cancelled) in [(20, 20, false), (20, 21, true), (0, 99, false)] {
        let options = options(&format!(r#"{{"CompletionTimeoutPerGiB":100,"ProgressTimeout":{timeout}}}"#));
        let mut policy = Policy::new(&options, &facts());
        follow(&mut policy, moving(0));
        let stuck = look(still, Some(job(0, 1000)));
        assert_eq!(!follow(&mut policy, stuck).is_empty(), cancelled, "{timeout} {still}");
    }
}

#[test]
fn row_3_also_holds_without_statistics_and_for_a_paused_guest() {
    let mut policy = policy(r#","AllowWorkloadDisruption":true,"ProgressTimeout":20"#, facts());
    follow(&mut policy, moving(100));
    assert_eq!(follow(&mut policy, moving(101)), [Order::Suspend]);
    assert!(follow(&mut policy, look(121, None)).is_empty());
    assert_eq!(follow(&mut policy, look(122, None)), [Order::Cancel]);
}

#[test]
fn row_3_comes_after_row_2() {
    let mut policy = policy(r#","AllowWorkloadDisruption":true,"ProgressTimeout":20"#, facts());
    assert_eq!(follow(&mut policy, look(101, Some(job(0, 1000)))), [Order::Suspend]);
}

#[test]
fn row_4_cancels_with_the_figures_in_the_reason() {
    let mut policy = policy("", facts());
    assert!(follow(&mut policy, moving(100)).is_empty());
    let steps = policy.look(&moving(101));
    assert_eq!(orders(&steps), [Order::Cancel]);
    assert_eq!(
        steps[0].reason,
        "not completed after 101 seconds (CompletionTimeoutPerGiB allows 100): 0 MiB remain, iteration 1"
    );
    let Some(Notice::Warning(text)) = steps[0].announcement() else { panic!("a cancel is announced") };
    assert!(text.starts_with("cancelling the migration: not completed after 101 seconds"), "{text}");
}

#[test]
fn pending_abort_stops_every_row() {
    for extra in ["", DISRUPTION, POST_COPY_ALLOWED] {
        let mut policy = policy(extra, facts());
        assert!(policy.look(&Look { abort_pending: true, ..moving(101) }).is_empty(), "{extra}");
        assert_eq!(policy.look(&moving(102)).len(), 1, "{extra}");
    }
}

#[test]
fn cancel_that_failed_is_asked_for_again() {
    let mut policy = policy("", facts());
    assert_eq!(follow(&mut policy, moving(101)), [Order::Cancel]);
    assert_eq!(follow(&mut policy, moving(102)), [Order::Cancel]);
}

#[test]
fn legacy_strategy_takes_over_where_there_are_no_iteration_events() {
    let options =
        options(r#"{"CompletionTimeoutPerGiB":100,"StallDetectorOptions":{},"AllowWorkloadDisruption":true}"#);
    let mut policy = Policy::new(&options, &Facts { iteration_events: false, ..facts() });
    assert!(follow(&mut policy, moving(0)).is_empty());
    assert_eq!(follow(&mut policy, moving(101)), [Order::Suspend]);
}

#[test]
fn pause_that_nobody_asked_for_is_not_the_legacy_strategys() {
    let mut policy = policy(DISRUPTION, facts());
    follow(&mut policy, Look { state: Some(PAUSED_BY_MIGRATION), ..moving(50) });
    assert_eq!(policy.mode(), Mode::PreCopy);
}

#[test]
fn state_of_the_guest_tells_of_post_copy_too() {
    // The call was not answered in time, but took effect.
    let mut policy = policy(POST_COPY_ALLOWED, facts());
    let steps = policy.look(&moving(101));
    assert!(!policy.may_cancel());
    policy.done(&steps[0], false);
    assert!(policy.may_cancel());
    assert!(follow(&mut policy, Look { state: Some(POST_COPY), ..moving(102) }).is_empty());
    assert_eq!(policy.mode(), Mode::PostCopy);
}
