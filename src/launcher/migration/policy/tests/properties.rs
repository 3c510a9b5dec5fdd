//! What holds for every course of a migration, restarts of the launcher included.

use proptest::prelude::*;

use super::*;
use crate::launcher::migration::options::{DowntimeTuning, StallDetectorOptions};
use crate::launcher::migration::policy::step::Purpose;

const STATES: [Option<DomainState>; 5] = [
    None,
    Some(DomainState::RUNNING),
    Some(PAUSED_BY_MIGRATION),
    Some(POST_COPY),
    Some(DomainState::new(LifeCycle::Paused, StateReason::User)),
];

/// What becomes of the steps of a look.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Failed,
    /// The launcher ends before it knows; the next one goes on.
    Lost,
    /// The launcher ends afterwards.
    DoneThenRestarted,
}

#[derive(Debug, Clone)]
struct Event {
    milliseconds: u64,
    look: Look,
    outcome: Outcome,
}

fn figure() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 6 => (0..5_000_u64).prop_map(Some), 1 => any::<u64>().prop_map(Some)]
}

fn sample() -> impl Strategy<Value = JobSample> {
    (figure(), figure(), figure(), figure(), figure(), figure(), figure()).prop_map(
        |(time_elapsed, data_processed, data_remaining, memory_total, memory_iteration, memory_bps, disk_total)| {
            JobSample {
                time_elapsed: time_elapsed.map(|time| time.saturating_mul(100)),
                data_processed,
                data_remaining,
                memory_total,
                memory_iteration,
                memory_bps,
                disk_total,
                ..JobSample::default()
            }
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        8 => Just(Outcome::Done),
        3 => Just(Outcome::Failed),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::DoneThenRestarted),
    ];
    let state = prop_oneof![2 => Just(0_usize), 20 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4)];
    let milliseconds = prop_oneof![4 => Just(400), 4 => 0..30_000_u64, 1 => 0..300_000_u64];
    (milliseconds, proptest::option::weighted(0.8, sample()), state, any::<bool>(), prop::bool::weighted(0.1), outcome)
        .prop_map(|(milliseconds, job, state, iteration, abort_pending, outcome)| {
            let look = Look { elapsed: Duration::ZERO, job, state: STATES[state], iteration, abort_pending };
            Event { milliseconds, look, outcome }
        })
}

fn wishes() -> impl Strategy<Value = MigrationOptions> {
    let tuning = (any::<Option<i64>>(), any::<Option<i64>>(), proptest::option::of(0..5_i64)).prop_map(
        |(initial_ms, steps, start_after_iteration)| DowntimeTuning {
            initial_ms,
            steps,
            start_after_iteration,
            cooldown_seconds: Some(1),
        },
    );
    let stall = (0..20_u64, 0..60_u64, 0..60_u64, any::<bool>()).prop_map(|(margin, window, timeout, search)| {
        StallDetectorOptions {
            stall_margin: margin,
            stall_progress_timeout: window,
            switchover_timeout: timeout,
            search_local_minima: search,
            ..StallDetectorOptions::default()
        }
    });
    let limits = (prop_oneof![Just(0), 1..200_u64], prop_oneof![Just(0), 1..200_u64], 0..3_000_000_u64);
    (limits, any::<bool>(), any::<Option<bool>>(), proptest::option::of(tuning), proptest::option::of(stall)).prop_map(
        |(limits, allow_post_copy, allow_workload_disruption, downtime_tuning, stall_detector_options)| {
            MigrationOptions {
                completion_timeout_per_gib: limits.0,
                progress_timeout: limits.1,
                max_downtime_ms: limits.2,
                allow_post_copy,
                allow_workload_disruption,
                downtime_tuning,
                stall_detector_options,
                ..MigrationOptions::default()
            }
        },
    )
}

fn all_facts() -> impl Strategy<Value = Facts> {
    (prop_oneof![Just(0), 1..3_000_000_000_u64], any::<[bool; 4]>()).prop_map(|(volumes, flags)| {
        let [vfio, paused, post_copy_armed, iteration_events] = flags;
        Facts { data: DataSize { volumes, ..facts().data }, vfio, paused, post_copy_armed, iteration_events }
    })
}

/// What may be asked for, whatever happened before.
struct Limits<'a> {
    options: &'a MigrationOptions,
    facts: &'a Facts,
    /// Seconds that the job has, if limited, and when it began.
    acceptable: Option<u64>,
    begun: Option<Duration>,
    /// When the stall strategy last brought about a switch-over.
    switched: Option<Duration>,
}

impl Limits<'_> {
    fn seconds(&self, elapsed: Duration) -> u64 {
        elapsed.saturating_sub(self.begun.unwrap_or_default()).as_secs()
    }

    fn check(&self, look: &Look, step: &Step) {
        let Limits { options, facts, acceptable, .. } = *self;
        let stalls = options.stall_detector_options.is_some() && facts.iteration_events;
        let seconds = self.seconds(look.elapsed);
        let is_over = acceptable.is_some_and(|acceptable| seconds > acceptable);
        // At an iteration that stalls, or without a limit, what comes before the acceptable time is no deadline's.
        let is_in_time = is_over || stalls && look.iteration || acceptable.is_none();
        match step.order {
            Order::StartPostCopy => {
                assert!(options.allow_post_copy && facts.post_copy_armed && !facts.vfio && !facts.paused);
                assert!((options.allows_disruption() || stalls) && self.begun.is_some() && is_in_time);
            }
            Order::Suspend => {
                assert!(options.allows_disruption() && !stalls && !facts.paused && !facts.vfio);
                assert!(self.begun.is_some() && is_in_time);
            }
            Order::SetMaxDowntime(downtime) => {
                let downtime = u64::try_from(downtime.as_millis()).unwrap();
                assert!(downtime <= 2_000_000);
                if downtime > options.downtime_ceiling_ms() {
                    assert!(options.allows_disruption() && is_in_time);
                }
            }
            Order::Cancel if step.reason.starts_with("stuck") => assert!(!stalls && options.progress_timeout != 0),
            Order::Cancel => {
                let timeout = options.stall_detector_options.as_ref().map_or(0, |stall| stall.switchover_timeout);
                let switched = self.switched.is_some_and(|at| seconds > self.seconds(at) + timeout);
                assert!(acceptable.is_some() && (is_in_time || switched));
            }
        }
    }
}

/// Runs a migration through `events` and checks each step.
fn course(options: &MigrationOptions, facts: &Facts, events: &[Event]) {
    let acceptable = facts.data.acceptable(options.completion_timeout_per_gib);
    let mut limits = Limits { options, facts, acceptable, begun: None, switched: None };
    let mut policy = Policy::new(options, facts);
    let mut elapsed = Duration::ZERO;
    for event in events {
        elapsed += Duration::from_millis(event.milliseconds);
        let look = Look { elapsed, ..event.look };
        if look.job.is_some() {
            limits.begun.get_or_insert(elapsed);
        }
        let before = policy.mode();
        let steps = policy.look(&look);
        assert!(steps.is_empty() || !look.abort_pending && policy.mode() != Mode::PostCopy);
        assert!(steps.len() <= 2);
        for step in &steps {
            limits.check(&look, step);
            let _ = step.announcement();
            match event.outcome {
                Outcome::Done | Outcome::DoneThenRestarted => {
                    policy.done(step, true);
                    if step.purpose == Purpose::SwitchOver {
                        limits.switched = Some(elapsed);
                    }
                }
                Outcome::Failed => {
                    policy.done(step, false);
                }
                Outcome::Lost => {}
            }
        }
        assert!(before == Mode::PreCopy || policy.mode() != Mode::PreCopy);
        assert!(before != Mode::PostCopy || policy.mode() == Mode::PostCopy);
        assert!(policy.may_cancel() || steps.iter().all(|step| step.order != Order::Cancel));
        if matches!(event.outcome, Outcome::Lost | Outcome::DoneThenRestarted) {
            let saved = policy.saved();
            let json = serde_json::to_string(&saved).unwrap();
            policy = Policy::restored(options, facts, serde_json::from_str(&json).unwrap());
            assert_eq!(policy.saved(), saved);
        }
    }
}

proptest! {
    #[test]
    fn every_step_is_allowed_and_in_time(
        options in wishes(),
        facts in all_facts(),
        events in proptest::collection::vec(event(), 1..60),
    ) {
        course(&options, &facts, &events);
    }

    /// A migration that always comes nearer to its end is not touched before its time.
    #[test]
    fn migration_that_converges_is_left_alone(
        options in wishes(),
        facts in all_facts(),
        pauses in proptest::collection::vec(1..2_000_u64, 1..60),
    ) {
        let acceptable = facts.data.acceptable(options.completion_timeout_per_gib);
        let mut policy = Policy::new(&options, &facts);
        let mut milliseconds = 0;
        for (pass, pause) in pauses.iter().enumerate() {
            milliseconds += pause;
            let pass = pass as u64;
            let remaining = (1_u64 << 62) >> pass;
            let sample = JobSample { memory_bps: Some(1000), ..job(pass, remaining) };
            let elapsed = Duration::from_millis(milliseconds);
            if acceptable.is_some_and(|acceptable| elapsed.as_secs() > acceptable) {
                break;
            }
            let steps = policy.look(&Look { elapsed, ..look(0, Some(sample)) });
            for step in &steps {
                let Order::SetMaxDowntime(downtime) = step.order else { panic!("{step:?}") };
                prop_assert!(downtime.as_millis() <= u128::from(options.downtime_ceiling_ms()));
                policy.done(step, true);
            }
        }
    }
}
