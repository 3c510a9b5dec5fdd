//! The main line with scripted inputs, in paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

struct World {
    signalled: watch::Sender<Option<Instant>>,
    /// How far virt-handler has acknowledged the mark, whose generation is 1.
    mark_acknowledged: watch::Sender<u64>,
    end_ordered: watch::Sender<bool>,
    leave_early: watch::Sender<bool>,
    never_receives: watch::Sender<Option<String>>,
    prepared: watch::Sender<Option<Instant>>,
    defined: watch::Sender<bool>,
    process: watch::Sender<HypervisorProcess>,
    deletion: watch::Sender<Option<u64>>,
    /// How far virt-handler has acknowledged the deletion, whose generation is 1.
    deletion_acknowledged: watch::Sender<u64>,
    failed: watch::Sender<Option<String>>,
    given_up: AtomicUsize,
    /// virt-handler's socket is there.
    virt_handler: bool,
    own_grace: Option<Duration>,
    asked: AtomicUsize,
    kills: AtomicUsize,
    hooks: AtomicUsize,
    /// How often the launcher stayed for virt-handler's last calls, and left without its acknowledgement.
    stayed: AtomicUsize,
    untold: AtomicUsize,
    /// There has never been a virt-handler.
    nobody: bool,
    /// The kill after which the process is gone.
    dies_at_kill: usize,
    /// The request after which the guest has shut down.
    obeys_request: usize,
}

impl World {
    fn new(dies_at_kill: usize) -> Self {
        World {
            signalled: watch::Sender::new(None),
            mark_acknowledged: watch::Sender::new(0),
            end_ordered: watch::Sender::new(false),
            leave_early: watch::Sender::new(false),
            never_receives: watch::Sender::new(None),
            prepared: watch::Sender::new(None),
            defined: watch::Sender::new(false),
            process: watch::Sender::new(HypervisorProcess::Unknown),
            deletion: watch::Sender::new(None),
            deletion_acknowledged: watch::Sender::new(0),
            failed: watch::Sender::new(None),
            given_up: AtomicUsize::new(0),
            virt_handler: true,
            own_grace: None,
            asked: AtomicUsize::new(0),
            kills: AtomicUsize::new(0),
            hooks: AtomicUsize::new(0),
            stayed: AtomicUsize::new(0),
            untold: AtomicUsize::new(0),
            nobody: false,
            dies_at_kill,
            obeys_request: usize::MAX,
        }
    }

    /// A VM that runs, and a pod that was told to stop.
    fn stopping() -> Self {
        let world = World::new(1);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Running(4711));
        world.signalled.send_replace(Some(Instant::now()));
        world
    }

    /// The deletion is handed over and acknowledged.
    fn acknowledge_deletion(&self) {
        self.deletion_acknowledged.send_replace(1);
        self.deletion.send_replace(Some(1));
    }

    fn counts(&self) -> (usize, usize) {
        (self.asked.load(Ordering::SeqCst), self.kills.load(Ordering::SeqCst))
    }

    /// How often virt-handler's last calls were waited for, and how often the launcher left without its acknowledgement.
    fn told(&self) -> (usize, usize) {
        (self.stayed.load(Ordering::SeqCst), self.untold.load(Ordering::SeqCst))
    }

    async fn run(&self, grace: u64) -> (Ending, Duration) {
        self.run_with(core(), grace).await
    }

    async fn run_with(&self, core: CoreTasks, grace: u64) -> (Ending, Duration) {
        let watched = Inputs {
            signalled: self.signalled.subscribe(),
            mark: Delivery {
                handed_over: watch::Sender::new(Some(1)).subscribe(),
                acknowledged: self.mark_acknowledged.subscribe(),
            },
            end_ordered: self.end_ordered.subscribe(),
            leave_early: self.leave_early.subscribe(),
            never_receives: self.never_receives.subscribe(),
            prepared: self.prepared.subscribe(),
            defined: self.defined.subscribe(),
            process: self.process.subscribe(),
            deletion: Delivery {
                handed_over: self.deletion.subscribe(),
                acknowledged: self.deletion_acknowledged.subscribe(),
            },
            daemon_failed: self.failed.subscribe(),
        };
        let start = Instant::now();
        let ending =
            run(watched, core, self, Duration::from_secs(300), Duration::from_secs(grace), &Timings::default()).await;
        (ending, start.elapsed())
    }
}

/// Core tasks that run for ever.
fn core() -> CoreTasks {
    let task = || tokio::spawn(std::future::pending());
    CoreTasks { publisher: task(), guest_poller: task(), driver: task() }
}

impl ShutdownActions for World {
    fn virt_handler_is_there(&self) -> bool {
        self.virt_handler
    }

    fn virt_handler_may_come(&self) -> bool {
        !self.nobody
    }

    fn own_grace(&self) -> Option<Duration> {
        self.own_grace
    }

    async fn last_calls(&self) {
        self.stayed.fetch_add(1, Ordering::SeqCst);
    }

    fn leave_untold(&self) {
        self.untold.fetch_add(1, Ordering::SeqCst);
    }

    async fn ask_guest(&self) {
        if self.asked.fetch_add(1, Ordering::SeqCst) + 1 == self.obeys_request {
            self.process.send_replace(HypervisorProcess::Gone);
        }
    }

    async fn kill(&self) {
        if self.kills.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_at_kill {
            self.process.send_replace(HypervisorProcess::Gone);
        }
    }

    async fn hypervisor_gone(&self) {
        self.hooks.fetch_add(1, Ordering::SeqCst);
    }

    fn cannot_receive(&self, why: &str) {
        assert_eq!(why, "no migration");
        self.given_up.fetch_add(1, Ordering::SeqCst);
    }

    fn give_up(&self, why: &str) {
        assert_eq!(why, "virtqemud failed");
        assert_eq!(*self.process.borrow(), HypervisorProcess::Gone, "first the VM, then the words");
        self.given_up.fetch_add(1, Ordering::SeqCst);
        self.acknowledge_deletion();
    }
}

#[tokio::test(start_paused = true)]
async fn no_domain_within_the_timeout_fails() {
    assert_eq!(World::new(1).run(30).await, (Ending::Failed, Duration::from_secs(300)));
}

#[tokio::test(start_paused = true)]
async fn targets_time_begins_anew_with_each_preparation() {
    let world = World::new(1);
    let prepare = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            world.prepared.send_replace(Some(Instant::now()));
        }
    };
    let (ended, ()) = tokio::join!(world.run(30), prepare);
    assert_eq!(ended, (Ending::Failed, Duration::from_secs(200 + 200 + 300)));
}

#[tokio::test(start_paused = true)]
async fn target_that_can_never_receive_ends_at_once_and_a_launcher_with_a_domain_does_not() {
    let world = World::new(1);
    world.never_receives.send_replace(Some("no migration".into()));
    assert_eq!(world.run(30).await, (Ending::Failed, Duration::ZERO));
    assert_eq!((world.given_up.load(Ordering::SeqCst), world.kills.load(Ordering::SeqCst)), (1, 0));

    // Defined at the same moment, and later.
    let world = World::new(1);
    world.never_receives.send_replace(Some("no migration".into()));
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Running(4711));
    assert!(tokio::time::timeout(Duration::from_secs(3600), world.run(30)).await.is_err(), "it left its VM");
    assert_eq!((world.given_up.load(Ordering::SeqCst), world.kills.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn signal_without_a_domain_ends_at_once() {
    let world = World::new(1);
    world.signalled.send_replace(Some(Instant::now()));
    assert_eq!(world.run(30).await, (Ending::Orderly, Duration::ZERO));
    assert_eq!(world.kills.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn vm_that_was_being_started_when_the_signal_came_is_asked_as_every_other() {
    let world = World { virt_handler: false, obeys_request: 2, ..World::new(1) };
    world.defined.send_replace(true);
    world.signalled.send_replace(Some(Instant::now()));
    let start = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.process.send_replace(HypervisorProcess::Running(4711));
    };
    let (ended, ()) = tokio::join!(world.run(60), start);
    assert_eq!(ended, (Ending::Orderly, Duration::from_secs(60 + 10)));
    assert_eq!(world.counts(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn unused_target_leaves_early_with_failure() {
    let world = World::new(1);
    world.leave_early.send_replace(true);
    assert_eq!(world.run(30).await.0, Ending::Failed);
}

#[tokio::test(start_paused = true)]
async fn target_that_is_told_to_leave_ends_its_hypervisor_after_five_seconds() {
    let world = World::new(1);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Running(4711));
    world.leave_early.send_replace(true);
    let killed = async {
        let mut process = world.process.subscribe();
        process.wait_for(HypervisorProcess::has_ended).await.unwrap();
        world.acknowledge_deletion();
    };
    let (ended, ()) = tokio::join!(world.run(60), killed);
    assert_eq!(ended, (Ending::Orderly, Duration::from_secs(5)));
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn guest_that_powers_off_and_is_reported_ends_at_once() {
    let world = World::new(1);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Gone);
    world.acknowledge_deletion();
    assert_eq!(world.run(30).await, (Ending::Orderly, Duration::ZERO));
    assert_eq!((world.kills.load(Ordering::SeqCst), world.hooks.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_period_the_vm_is_killed_until_it_is_gone() {
    let world = World::new(3);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Running(4711));
    world.signalled.send_replace(Some(Instant::now()));
    world.end_ordered.send_replace(true);
    world.acknowledge_deletion();
    let (ending, took) = world.run(30).await;
    assert_eq!((ending, took), (Ending::Orderly, Duration::from_secs(33)));
    assert_eq!(world.kills.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_daemon_the_vm_is_ended_and_the_reason_told() {
    let world = World::new(3);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Running(4711));
    world.failed.send_replace(Some("virtqemud failed".into()));
    assert_eq!(world.run(30).await, (Ending::Failed, Duration::from_secs(2)));
    assert_eq!((world.counts(), world.given_up.load(Ordering::SeqCst)), ((0, 3), 1));
}

#[tokio::test(start_paused = true)]
async fn absent_virt_handler_cannot_hold_the_pod_for_ever() {
    let world = World::new(9);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Gone);
    assert_eq!(world.run(30).await, (Ending::Orderly, Duration::from_secs(45)));
    assert_eq!(world.kills.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn absent_virt_handler_is_not_waited_for_once_more_after_the_domain_was_deleted() {
    for deleted_after in [0, 10, 14] {
        let world = World::new(9);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Gone);
        let deletes = async {
            tokio::time::sleep(Duration::from_secs(deleted_after)).await;
            world.deletion.send_replace(Some(1));
        };
        let (ended, ()) = tokio::join!(world.run(30), deletes);
        assert_eq!(ended, (Ending::Orderly, Duration::from_secs(15)));
        assert_eq!((world.counts(), world.told()), ((0, 0), (0, 1)));
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_virt_handler_whoever_deletes_the_domain_ends_the_wait() {
    let world = World { virt_handler: false, nobody: true, ..World::new(9) };
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Gone);
    let deletes = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        world.deletion.send_replace(Some(1));
    };
    let (ended, ()) = tokio::join!(world.run(30), deletes);
    assert_eq!(ended, (Ending::Orderly, Duration::from_secs(7)));
    assert_eq!((world.counts(), world.told()), ((0, 0), (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn without_virt_handler_the_guest_is_asked_at_once_and_the_pod_stays_as_long_as_it_may() {
    let world = World { virt_handler: false, obeys_request: 3, ..World::stopping() };
    assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(60 + 10)));
    assert_eq!((world.counts(), world.told()), ((3, 0), (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn virt_handler_that_comes_back_while_the_pod_may_stay_learns_how_the_vm_ended() {
    for back in [11, 40, 69] {
        let world = World { virt_handler: false, obeys_request: 3, ..World::stopping() };
        let returns = async {
            tokio::time::sleep(Duration::from_secs(back)).await;
            world.acknowledge_deletion();
        };
        let (ended, ()) = tokio::join!(world.run(60), returns);
        assert_eq!(ended, (Ending::Orderly, Duration::from_secs(back)));
        assert_eq!(world.told(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn vm_without_virt_handler_has_nobody_to_wait_for() {
    let world = World { virt_handler: false, nobody: true, obeys_request: 3, ..World::stopping() };
    assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(10)));
    assert_eq!(world.counts(), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn virt_handler_that_went_away_after_its_order_is_waited_for_too() {
    let world = World::stopping();
    world.mark_acknowledged.send_replace(1);
    world.end_ordered.send_replace(true);
    let guest = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        world.process.send_replace(HypervisorProcess::Gone);
    };
    let (ended, ()) = tokio::join!(world.run(60), guest);
    assert_eq!(ended, (Ending::Orderly, Duration::from_secs(60 + 10)));
    assert_eq!((world.counts(), world.told()), ((0, 0), (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn virt_handler_that_does_not_acknowledge_is_given_five_seconds() {
    let world = World { obeys_request: 1, ..World::stopping() };
    assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(60 + 10)));
    assert_eq!((world.counts(), world.told()), ((1, 0), (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn virt_handler_that_orders_nothing_is_given_ten_seconds() {
    let world = World { obeys_request: 1, ..World::stopping() };
    world.mark_acknowledged.send_replace(1);
    world.acknowledge_deletion();
    assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(10)));
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn virt_handler_that_orders_the_shutdown_is_left_alone() {
    let world = World::stopping();
    world.mark_acknowledged.send_replace(1);
    world.end_ordered.send_replace(true);
    world.acknowledge_deletion();
    assert_eq!(world.run(60).await, (Ending::Orderly, Duration::from_secs(61)));
    assert_eq!(world.counts(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn deaf_guest_is_killed_when_its_own_grace_period_is_over() {
    let own_grace = Some(Duration::from_secs(30));
    let world = World { virt_handler: false, nobody: true, own_grace, ..World::stopping() };
    assert_eq!(world.run(45).await, (Ending::Orderly, Duration::from_secs(30)));
    assert_eq!(world.counts(), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn grace_period_began_with_the_signal_whoever_heard_it() {
    let world = World { virt_handler: false, ..World::stopping() };
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(world.run(45).await, (Ending::Orderly, Duration::from_secs(45 + 10 - 40)));
    assert_eq!(world.counts().1, 1);
}

#[tokio::test(start_paused = true)]
async fn core_task_that_panics_ends_the_launcher_and_not_the_vm() {
    let broken = || {
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            panic!("a broken invariant");
        })
    };
    for core in [
        CoreTasks { publisher: broken(), ..core() },
        CoreTasks { guest_poller: broken(), ..core() },
        CoreTasks { driver: broken(), ..core() },
    ] {
        let world = World::new(1);
        world.defined.send_replace(true);
        world.process.send_replace(HypervisorProcess::Running(4711));
        let (ending, _) = tokio::time::timeout(Duration::from_secs(60), world.run_with(core, 30)).await.unwrap();
        assert_eq!(ending, Ending::Crashed);
        assert_eq!(world.counts(), (0, 0), "the guest is neither asked to shut down nor killed");
        assert_eq!((world.hooks.load(Ordering::SeqCst), world.told()), (0, (0, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn core_task_that_ends_together_with_the_vm_is_not_a_crash() {
    let world = World::new(1);
    world.defined.send_replace(true);
    world.process.send_replace(HypervisorProcess::Gone);
    world.acknowledge_deletion();
    let core = CoreTasks { publisher: tokio::spawn(async {}), ..core() };
    tokio::task::yield_now().await;
    assert_eq!(world.run_with(core, 30).await, (Ending::Orderly, Duration::ZERO));
}

#[test]
fn crashed_has_the_exit_code_that_the_monitor_takes_for_unfinished_work() {
    // `monitor::adoption` tests that this code is followed by another launcher while a hypervisor lives.
    assert_eq!(Ending::Crashed as u8, 101);
}
