//! A later launcher goes on (13.1).

use super::*;

const LIMITED: &str = r#"{"CompletionTimeoutPerGiB":100,"AllowWorkloadDisruption":true}"#;

/// The policy of the next launcher, with what is read back from the state file.
fn next(policy: &Policy, options: &MigrationOptions, facts: &Facts) -> Policy {
    let saved = serde_json::to_string(&policy.saved()).unwrap();
    let next = Policy::restored(options, facts, serde_json::from_str(&saved).unwrap());
    assert_eq!(next.saved(), policy.saved());
    next
}

#[test]
fn saved_state_does_not_change_with_each_look() {
    for json in [LIMITED, r#"{"CompletionTimeoutPerGiB":100,"StallDetectorOptions":{}}"#] {
        let mut policy = Policy::new(&options(json), &facts());
        follow(&mut policy, moving(0));
        let saved = policy.saved();
        for seconds in 1..100 {
            follow(&mut policy, Look { iteration: seconds % 7 == 0, ..moving(seconds) });
        }
        assert_eq!(policy.saved(), saved, "{json}");
    }
}

#[test]
fn time_outs_go_on_from_the_first_start() {
    let options = options(LIMITED);
    let mut policy = Policy::new(&options, &facts());
    follow(&mut policy, look(9, None));
    follow(&mut policy, moving(10));
    let mut policy = next(&policy, &options, &facts());
    assert!(follow(&mut policy, moving(110)).is_empty());
    assert_eq!(follow(&mut policy, moving(111)), [Order::Suspend]);
    let mut policy = next(&policy, &options, &facts());
    assert_eq!(policy.mode(), Mode::Paused);
    assert!(follow(&mut policy, moving(210)).is_empty());
    assert_eq!(follow(&mut policy, moving(211)), [Order::Cancel]);
}

#[test]
fn progress_is_counted_from_the_later_launchers_first_look() {
    let options = options(r#"{"ProgressTimeout":20}"#);
    let mut policy = Policy::new(&options, &facts());
    follow(&mut policy, moving(0));
    let mut policy = next(&policy, &options, &facts());
    assert!(follow(&mut policy, look(500, None)).is_empty());
    assert!(follow(&mut policy, look(520, None)).is_empty());
    assert_eq!(follow(&mut policy, look(521, None)), [Order::Cancel]);
}

#[test]
fn pause_whose_outcome_was_not_seen_is_ours() {
    let options = options(LIMITED);
    let mut policy = Policy::new(&options, &facts());
    follow(&mut policy, moving(0));
    assert_eq!(orders(&policy.look(&moving(101))), [Order::Suspend]);
    // The state is saved before the call; the launcher dies in it.
    for (state, mode, steps) in [
        (Some(PAUSED_BY_MIGRATION), Mode::Paused, vec![]),
        (Some(DomainState::RUNNING), Mode::PreCopy, vec![Order::Suspend]),
        (None, Mode::PreCopy, vec![]),
    ] {
        let mut next = next(&policy, &options, &facts());
        let asked = next.look(&Look { state, ..moving(105) });
        assert_eq!((next.mode(), orders(&asked)), (mode, steps), "{state:?}");
    }
    let mut next = next(&policy, &options, &facts());
    follow(&mut next, Look { state: Some(PAUSED_BY_MIGRATION), ..moving(105) });
    assert!(follow(&mut next, moving(200)).is_empty());
    assert_eq!(follow(&mut next, moving(201)), [Order::Cancel]);
}

#[test]
fn post_copy_whose_outcome_was_not_seen_cannot_be_cancelled_before_it_is_known() {
    let options = options(r#"{"CompletionTimeoutPerGiB":100,"AllowWorkloadDisruption":true,"AllowPostCopy":true}"#);
    let mut policy = Policy::new(&options, &facts());
    follow(&mut policy, moving(0));
    assert_eq!(orders(&policy.look(&moving(101))), [Order::StartPostCopy]);
    let mut switched = next(&policy, &options, &facts());
    assert!(!switched.may_cancel());
    assert!(follow(&mut switched, Look { state: None, ..moving(104) }).is_empty());
    assert!(!switched.may_cancel());
    assert!(follow(&mut switched, Look { state: Some(POST_COPY), ..moving(105) }).is_empty());
    assert_eq!((switched.mode(), switched.may_cancel()), (Mode::PostCopy, false));
    let mut not_switched = next(&policy, &options, &facts());
    assert_eq!(follow(&mut not_switched, moving(105)), [Order::StartPostCopy]);
}

#[test]
fn tuning_goes_on_from_what_was_set() {
    let options = options(r#"{"DowntimeTuning":{"initialMs":10,"steps":1,"startAfterIteration":0}}"#);
    let mut policy = Policy::new(&options, &facts());
    assert_eq!(follow(&mut policy, moving(0)), [downtime(10)]);
    let mut policy = next(&policy, &options, &facts());
    assert!(follow(&mut policy, moving(9)).is_empty());
    assert_eq!(follow(&mut policy, moving(10)), [downtime(900)]);
}

#[test]
fn stall_strategy_keeps_its_switch_over() {
    let options =
        options(r#"{"CompletionTimeoutPerGiB":100,"StallDetectorOptions":{},"AllowWorkloadDisruption":true}"#);
    let fast = |seconds| {
        let job = JobSample { memory_bps: Some(1_000_000), ..job(seconds, 1000) };
        look(seconds, Some(job))
    };
    let mut policy = Policy::new(&options, &facts());
    assert_eq!(follow(&mut policy, fast(0)), [downtime(300)]);
    assert_eq!(follow(&mut policy, fast(101)), [downtime(2_000_000)]);
    let mut policy = next(&policy, &options, &facts());
    assert!(follow(&mut policy, fast(161)).is_empty());
    assert_eq!(follow(&mut policy, fast(162)), [Order::Cancel]);
}

#[test]
fn speed_that_a_later_launcher_does_not_know_yet_is_waited_for() {
    let options =
        options(r#"{"CompletionTimeoutPerGiB":100,"StallDetectorOptions":{},"AllowWorkloadDisruption":true}"#);
    let mut policy = Policy::new(&options, &facts());
    follow(&mut policy, moving(0));
    let mut policy = next(&policy, &options, &facts());
    assert!(follow(&mut policy, moving(150)).is_empty());
    assert!(follow(&mut policy, moving(159)).is_empty());
    let known = JobSample { memory_bps: Some(1_000_000), ..job(159, 1000) };
    assert_eq!(follow(&mut policy.clone(), look(159, Some(known))), [downtime(2_000_000)]);
    assert_eq!(follow(&mut policy, moving(160)), [Order::Cancel]);
}
