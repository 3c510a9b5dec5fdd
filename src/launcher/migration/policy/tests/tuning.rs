//! Rules of 7.3.

use super::*;

fn policy(tuning: &str, ceiling: u64) -> Policy {
    let options = options(&format!(r#"{{"MaxDowntimeMs":{ceiling},"DowntimeTuning":{tuning}}}"#));
    Policy::new(&options, &facts())
}

fn at(seconds: u64, iteration: u64) -> Look {
    look(seconds, Some(JobSample { memory_iteration: Some(iteration), ..job(seconds, 1000) }))
}

/// What the tuning says when its step succeeds.
fn tell(policy: &mut Policy, look: Look) -> Option<String> {
    let steps = policy.look(&look);
    assert!(steps.len() <= 1);
    assert!(steps.iter().all(|step| step.announcement().is_none()));
    match policy.done(steps.first()?, true)? {
        Notice::Info(text) | Notice::Warning(text) => Some(text),
    }
}

#[test]
fn tuning_tells_what_holds_after_defaults_and_limits() {
    for (tuning, ceiling, line) in [
        ("{}", 900, "initial=150ms steps=7 startAfterIteration=3 cooldown=10s ceiling=900ms"),
        ("{}", 100, "initial=100ms steps=7 startAfterIteration=3 cooldown=10s ceiling=100ms"),
        (
            r#"{"initialMs":10,"steps":3,"startAfterIteration":1,"cooldownSeconds":2}"#,
            900,
            "initial=10ms steps=3 startAfterIteration=1 cooldown=2s ceiling=900ms",
        ),
        (
            r#"{"initialMs":-1,"steps":-1,"startAfterIteration":-1,"cooldownSeconds":-1}"#,
            900,
            "initial=150ms steps=1 startAfterIteration=3 cooldown=1s ceiling=900ms",
        ),
        (
            r#"{"initialMs":0,"steps":0,"startAfterIteration":0,"cooldownSeconds":0}"#,
            900,
            "initial=0ms steps=1 startAfterIteration=0 cooldown=1s ceiling=900ms",
        ),
        (r#"{"initialMs":1000}"#, 900, "initial=900ms steps=7 startAfterIteration=3 cooldown=10s ceiling=900ms"),
    ] {
        let expected = Notice::Info(format!("downtime tuning enabled: {line}"));
        assert_eq!(policy(tuning, ceiling).opening(), [expected], "{tuning}");
    }
    assert!(Policy::new(&options("{}"), &facts()).opening().is_empty());
}

#[test]
fn tuning_begins_at_once_and_rises_to_the_ceiling() {
    let mut policy = policy(r#"{"initialMs":10,"steps":2,"startAfterIteration":3,"cooldownSeconds":10}"#, 100);
    let line = |change: &str| Some(format!("downtime tuning: max_downtime {change} (ceiling=100ms)"));
    assert_eq!(tell(&mut policy, look(0, None)), line("300ms -> 10ms"));
    // Not enough iterations, no iteration known, too soon.
    assert_eq!(tell(&mut policy, at(10, 2)), None);
    assert_eq!(tell(&mut policy, look(10, None)), None);
    assert_eq!(tell(&mut policy, at(9, 3)), None);
    assert_eq!(tell(&mut policy, at(10, 3)), line("10ms -> 55ms"));
    assert_eq!(tell(&mut policy, at(19, 4)), None);
    assert_eq!(tell(&mut policy, at(20, 4)), line("55ms -> 100ms"));
    assert_eq!(tell(&mut policy, at(1000, 50)), None);
}

#[test]
fn tuning_rises_by_a_millisecond_at_least() {
    let mut policy = policy(r#"{"initialMs":10,"steps":7,"startAfterIteration":0,"cooldownSeconds":1}"#, 12);
    for (seconds, change) in [(0, "300ms -> 10ms"), (1, "10ms -> 11ms"), (2, "11ms -> 12ms")] {
        let line = format!("downtime tuning: max_downtime {change} (ceiling=12ms)");
        assert_eq!(tell(&mut policy, at(seconds, 1)), Some(line));
    }
    assert_eq!(tell(&mut policy, at(3, 1)), None);
}

#[test]
fn tuning_step_that_failed_is_reported_and_tried_again() {
    let mut policy = policy(r#"{"initialMs":10}"#, 900);
    let steps = policy.look(&at(0, 0));
    let warning = "downtime tuning: failed to set max_downtime to 10ms".to_owned();
    assert_eq!(policy.done(&steps[0], false), Some(Notice::Warning(warning)));
    assert_eq!(orders(&policy.look(&at(1, 0))), [downtime(10)]);
}

#[test]
fn tuning_does_not_lower_the_downtime_that_makes_qemu_switch_over() {
    let options = options(
        r#"{"CompletionTimeoutPerGiB":100,"AllowWorkloadDisruption":true,
        "DowntimeTuning":{"startAfterIteration":0,"cooldownSeconds":1}}"#,
    );
    let mut policy = Policy::new(&options, &Facts { vfio: true, ..facts() });
    assert_eq!(follow(&mut policy, at(0, 1)), [downtime(150)]);
    // Tuning goes first in the pass in which it is time for help.
    assert_eq!(follow(&mut policy, at(101, 1)), [downtime(257), downtime(200_000)]);
    assert!(follow(&mut policy, at(150, 9)).is_empty());
}

#[test]
fn tuning_belongs_to_the_legacy_strategy() {
    let options = options(r#"{"StallDetectorOptions":{},"DowntimeTuning":{"initialMs":10}}"#);
    let mut policy = Policy::new(&options, &facts());
    assert!(policy.opening().is_empty());
    assert_eq!(follow(&mut policy, at(0, 1)), [downtime(300)]);
    let mut policy = Policy::new(&options, &Facts { iteration_events: false, ..facts() });
    assert_eq!(policy.opening().len(), 1);
    assert_eq!(follow(&mut policy, at(0, 1)), [downtime(10)]);
}
