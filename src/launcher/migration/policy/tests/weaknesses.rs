//! What this policy does better than the original (contract/migration.md 16).

use super::*;

const ALL_ALLOWED: &str =
    r#"{"CompletionTimeoutPerGiB":100,"ProgressTimeout":20,"AllowPostCopy":true,"AllowWorkloadDisruption":true}"#;

fn stall(json: &str) -> MigrationOptions {
    options(&json.replacen('{', r#"{"StallDetectorOptions":{},"#, 1))
}

#[test]
fn m4_paused_guest_gets_neither_post_copy_nor_another_pause() {
    let facts = Facts { paused: true, ..facts() };
    let mut policy = Policy::new(&options(ALL_ALLOWED), &facts);
    follow(&mut policy, moving(0));
    for seconds in (20..=200).step_by(20) {
        assert!(follow(&mut policy, moving(seconds)).is_empty(), "{seconds}");
    }
    assert_eq!(policy.mode(), Mode::PreCopy);
    assert_eq!(follow(&mut policy, moving(201)), [Order::Cancel]);
}

#[test]
fn m14_guest_is_not_disturbed_while_its_disks_are_copied() {
    for json in [ALL_ALLOWED, r#"{"CompletionTimeoutPerGiB":100,"AllowWorkloadDisruption":true}"#] {
        for options in [options(json), stall(json)] {
            let mut policy = Policy::new(&options, &facts());
            follow(&mut policy, look(0, Some(disks(0))));
            for seconds in (20..=180).step_by(20) {
                assert!(follow(&mut policy, look(seconds, Some(disks(seconds)))).is_empty(), "{json} {seconds}");
            }
            let memory = JobSample { memory_bps: Some(1000), ..job(181, 1000) };
            let order = follow(&mut policy, look(181, Some(memory)))[0];
            assert!(matches!(order, Order::StartPostCopy | Order::Suspend | Order::SetMaxDowntime(_)), "{order:?}");
        }
    }
}

#[test]
fn m14_disks_that_are_stuck_are_not_waited_for() {
    for (options, timeout) in [(options(ALL_ALLOWED), 20), (stall(ALL_ALLOWED), 100)] {
        let mut policy = Policy::new(&options, &facts());
        follow(&mut policy, look(0, Some(disks(0))));
        assert!(follow(&mut policy, look(timeout, Some(disks(0)))).is_empty());
        assert_eq!(follow(&mut policy, look(timeout + 1, Some(disks(0)))), [Order::Cancel]);
    }
}

#[test]
fn m14_wish_to_cancel_is_refused_once_post_copy_is_asked_for() {
    let mut policy = Policy::new(&options(ALL_ALLOWED), &facts());
    follow(&mut policy, moving(0));
    assert!(policy.may_cancel());
    let steps = policy.look(&moving(101));
    assert_eq!(orders(&steps), [Order::StartPostCopy]);
    assert!(!policy.may_cancel());
    // Nothing else is asked for before its outcome is known.
    assert!(policy.look(&moving(102)).is_empty());
    policy.done(&steps[0], true);
    assert!(!policy.may_cancel());
}

#[test]
fn m15_copied_volumes_have_time_as_long_as_they_move() {
    let json = r#"{"CompletionTimeoutPerGiB":100,"ProgressTimeout":50}"#;
    for options in [options(json), stall(json)] {
        // Two units: 200 s, of which 100 s are for memory.
        let data = DataSize { volumes: 1_000_000_000, ..facts().data };
        let mut policy = Policy::new(&options, &Facts { data, ..facts() });
        follow(&mut policy, look(0, Some(disks(0))));
        for seconds in (20..=1000).step_by(20) {
            assert!(follow(&mut policy, look(seconds, Some(disks(seconds)))).is_empty(), "{seconds}");
        }
        let memory = |seconds| look(seconds, Some(JobSample { memory_bps: Some(1), ..job(seconds, 1000) }));
        assert!(follow(&mut policy, memory(1100)).is_empty());
        // The clock is held back in steps of 30 s.
        assert_eq!(follow(&mut policy, memory(1131)), [Order::Cancel]);
    }
}

#[test]
fn m15_volumes_that_do_not_move_have_only_their_time() {
    let json = r#"{"CompletionTimeoutPerGiB":100,"ProgressTimeout":50}"#;
    let data = DataSize { volumes: 1_000_000_000, ..facts().data };
    for (options, end) in [(options(json), 51), (stall(json), 201)] {
        let mut policy = Policy::new(&options, &Facts { data, ..facts() });
        follow(&mut policy, look(0, Some(disks(0))));
        assert!(follow(&mut policy, look(end - 1, Some(disks(0)))).is_empty());
        assert_eq!(follow(&mut policy, look(end, Some(disks(0)))), [Order::Cancel]);
    }
}

#[test]
fn m16_help_remains_without_a_completion_time_out() {
    for (extra, help) in [
        (r#","AllowPostCopy":true,"AllowWorkloadDisruption":true"#, Some(Order::StartPostCopy)),
        (r#","AllowWorkloadDisruption":true"#, Some(Order::Suspend)),
        ("", None),
    ] {
        let options = options(&format!(r#"{{"CompletionTimeoutPerGiB":0,"ProgressTimeout":20{extra}}}"#));
        let mut policy = Policy::new(&options, &facts());
        follow(&mut policy, look(0, Some(job(0, 1000))));
        // As long as it comes nearer to its end it is left alone, however long it takes.
        for seconds in (10..=900).step_by(10) {
            assert!(follow(&mut policy, look(seconds, Some(job(seconds, 1000 - seconds)))).is_empty());
        }
        for seconds in [910, 920] {
            assert!(follow(&mut policy, look(seconds, Some(job(seconds, 200)))).is_empty());
        }
        assert_eq!(follow(&mut policy, look(921, Some(job(921, 200)))).first().copied(), help, "{extra}");
    }
}

#[test]
fn m16_guest_is_not_paused_for_ever() {
    let options = |extra: &str| {
        options(&format!(
            r#"{{"CompletionTimeoutPerGiB":0,"ProgressTimeout":0,"AllowWorkloadDisruption":true{extra}}}"#
        ))
    };
    let mut policy = Policy::new(&options(""), &facts());
    follow(&mut policy, moving(0));
    assert!(follow(&mut policy, moving(151)).is_empty());
    let mut policy = Policy::new(&options(r#","AllowPostCopy":true"#), &facts());
    follow(&mut policy, moving(0));
    assert!(follow(&mut policy, moving(150)).is_empty());
    assert_eq!(follow(&mut policy, moving(151)), [Order::StartPostCopy]);
}

#[test]
fn m16_stall_strategy_helps_without_a_completion_time_out_and_never_cancels() {
    for (extra, order) in [
        (r#","AllowPostCopy":true,"AllowWorkloadDisruption":true"#, Some(Order::StartPostCopy)),
        (r#","AllowWorkloadDisruption":true"#, Some(downtime(2_000_000))),
        (r#","MaxDowntimeMs":10000"#, Some(downtime(10_000))),
        ("", None),
    ] {
        let options = stall(&format!(r#"{{"CompletionTimeoutPerGiB":0{extra}}}"#));
        let mut policy = Policy::new(&options, &facts());
        follow(&mut policy, look(0, Some(JobSample { memory_bps: Some(1000), ..job(0, 10_000) })));
        let iteration = |seconds| Look { iteration: true, ..look(seconds, Some(job(seconds, 10_000))) };
        assert!(follow(&mut policy, iteration(1)).is_empty());
        assert_eq!(follow(&mut policy, iteration(41)).first().copied(), order, "{extra}");
        assert!(follow(&mut policy, look(100_000, Some(job(50, 10_000)))).is_empty());
    }
}

#[test]
fn m17_data_that_oscillates_without_being_moved_is_no_progress() {
    let mut policy = Policy::new(&options(r#"{"ProgressTimeout":20}"#), &facts());
    follow(&mut policy, look(0, Some(job(5, 1000))));
    for seconds in 1..=20 {
        let remaining = 1000 + seconds % 2;
        assert!(follow(&mut policy, look(seconds, Some(job(5, remaining)))).is_empty());
    }
    assert_eq!(follow(&mut policy, look(21, Some(job(5, 1000)))), [Order::Cancel]);
    // Data that is moved is progress, also where the guest writes as much again.
    let mut policy = Policy::new(&options(r#"{"ProgressTimeout":20}"#), &facts());
    for seconds in 0..200 {
        assert!(follow(&mut policy, look(seconds, Some(job(seconds, 1000 + seconds % 2)))).is_empty());
    }
}

#[test]
fn m17_clock_starts_with_the_job() {
    let options = options(r#"{"CompletionTimeoutPerGiB":100,"ProgressTimeout":150}"#);
    let mut policy = Policy::new(&options, &facts());
    assert!(follow(&mut policy, look(90, None)).is_empty());
    follow(&mut policy, moving(91));
    assert!(follow(&mut policy, moving(191)).is_empty());
    assert_eq!(follow(&mut policy, moving(192)), [Order::Cancel]);
    // A job that never begins is over some time too, and its guest is left alone.
    let mut policy = Policy::new(&self::options(ALL_ALLOWED.replace(":20", ":0").as_str()), &facts());
    assert!(follow(&mut policy, look(100, None)).is_empty());
    let steps = policy.look(&look(101, None));
    assert_eq!(orders(&steps), [Order::Cancel]);
    assert!(steps[0].reason.ends_with(": the job has not begun"), "{}", steps[0].reason);
}
