//! Asks the agent again and again (contract/notify.md 6.1, 6.2): which question how often is data, the clock is tokio's.
//!
//! What the reader can rely on: one question at a time; the poller sleeps in between; while the guest is paused or its
//! agent away it waits for the sign that this is over, and then asks everything anew.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::data::{AgentInfo, Filesystem, GuestData, Load, User};
use super::error::AgentError;
use super::{commands, parse};
use crate::domain::FsFreeze;
use crate::libvirt::{Connection, Params, code, guest_info};

/// The pause after the first answer; it doubles up to the question's interval.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// Longest pauses between two questions of a kind, as the flags say (`--qemu-agent-…-interval`). None is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Interfaces, OS, host name, time zone, load.
    pub sys: Duration,
    /// File systems.
    pub file: Duration,
    /// Users.
    pub user: Duration,
    /// The agent itself.
    pub version: Duration,
    /// Freeze status.
    pub fsfreeze_status: Duration,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Interfaces, operating system, host name and time zone.
    System,
    /// Whether the file systems are frozen.
    FreezeStatus,
    /// The agent's version and commands.
    Agent,
    /// Mounted file systems.
    Filesystems,
    /// Who is logged in.
    Users,
    /// Load averages.
    Load,
}

/// What the agent answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Question::System`].
    System(Params),
    /// To [`Question::FreezeStatus`].
    FreezeStatus(FsFreeze),
    /// To [`Question::Agent`].
    Agent(AgentInfo),
    /// To [`Question::Filesystems`].
    Filesystems(Vec<Filesystem>),
    /// To [`Question::Users`].
    Users(Vec<User>),
    /// To [`Question::Load`].
    Load(Load),
}

/// Whom the poller asks.
pub trait Agent: Send + Sync + 'static {
    /// Asks one question; ends by itself after a while.
    fn ask(&self, question: Question) -> impl Future<Output = Result<Answer, AgentError>> + Send;
}

/// Whether the agent can be asked. A number stands for one connection of the agent, so that a new one is seen as such.
pub type Presence = Option<u64>;

/// A question and its rhythm.
struct Worker {
    question: Question,
    interval: Duration,
    pause: Duration,
    due: Instant,
    /// The last try failed, and was told.
    failed: bool,
}

impl Worker {
    fn new(question: Question, interval: Duration) -> Self {
        Worker { question, interval, pause: FIRST_PAUSE.min(interval), due: Instant::now(), failed: false }
    }

    fn restart(&mut self) {
        self.pause = FIRST_PAUSE.min(self.interval);
        self.due = Instant::now();
    }

    /// 10 s, 20 s, 40 s … up to the interval.
    fn asked(&mut self) {
        self.due = Instant::now() + self.pause;
        self.pause = self.pause.saturating_mul(2).min(self.interval);
    }
}

/// In the order of a first round: what virt-handler is told of comes first.
fn workers(intervals: Intervals) -> [Worker; 6] {
    let Intervals { sys, file, user, version, fsfreeze_status } = intervals;
    [
        Worker::new(Question::System, sys),
        Worker::new(Question::FreezeStatus, fsfreeze_status),
        Worker::new(Question::Agent, version),
        Worker::new(Question::Filesystems, file),
        Worker::new(Question::Users, user),
        Worker::new(Question::Load, sys),
    ]
}

/// Asks `agent` while `presence` says so and keeps `data` current, until nobody can say any more.
pub async fn poll(
    agent: impl Agent,
    intervals: Intervals,
    mut presence: watch::Receiver<Presence>,
    data: watch::Sender<GuestData>,
) {
    let mut workers = workers(intervals);
    loop {
        let Ok(session) = presence.wait_for(Option::is_some).await.map(|session| *session) else { return };
        workers.iter_mut().for_each(Worker::restart);
        while *presence.borrow_and_update() == session {
            let Some(worker) = workers.iter_mut().min_by_key(|worker| worker.due) else { return };
            tokio::select! {
                biased;
                changed = presence.changed() => if changed.is_err() { return },
                () = sleep_until(worker.due) => ask(&agent, worker, &data).await,
            }
        }
    }
}

async fn ask(agent: &impl Agent, worker: &mut Worker, data: &watch::Sender<GuestData>) {
    let answer = agent.ask(worker.question).await;
    worker.asked();
    match answer {
        Ok(answer) => {
            worker.failed = false;
            data.send_if_modified(|data| store(data, answer));
        }
        // Once per streak: a guest can make every question fail, for ever.
        Err(error) if !std::mem::replace(&mut worker.failed, true) => {
            tracing::info!(v = 3, "Fetching guest info failed ({:?}): {error}", worker.question);
        }
        Err(_) => {}
    }
}

/// Stores an answer; false if it is no news.
fn store(data: &mut GuestData, answer: Answer) -> bool {
    let before = data.clone();
    match answer {
        Answer::System(params) => parse::system(&params, data),
        Answer::FreezeStatus(freeze) => data.freeze = freeze,
        Answer::Agent(info) => data.agent = Some(info),
        Answer::Filesystems(filesystems) => data.filesystems = filesystems,
        Answer::Users(users) => data.users = users,
        Answer::Load(load) => data.load = load,
    }
    *data != before
}

/// The agent of a domain, through libvirt.
#[derive(Clone)]
pub struct LibvirtAgent {
    /// The connection.
    pub connection: Connection,
    /// libvirt's name of the domain.
    pub domain: String,
}

impl LibvirtAgent {
    /// A command without arguments.
    pub(super) async fn bare(&self, command: &'static str) -> Result<String, AgentError> {
        self.command(commands::bare(command), self.connection.deadlines().agent).await
    }

    /// A command, and how long it may take.
    pub(super) async fn command(&self, command: String, within: Duration) -> Result<String, AgentError> {
        Ok(self.connection.agent_command(&self.domain, command, within).await?)
    }

    async fn info(&self, types: u32) -> Result<Params, AgentError> {
        Ok(self.connection.guest_info(&self.domain, types, self.connection.deadlines().agent).await?)
    }

    /// All of `types` at once; where the agent does not know one of them, each by itself, since libvirt then gives none.
    async fn system(&self) -> Result<Params, AgentError> {
        let types = [guest_info::INTERFACES, guest_info::OS, guest_info::HOSTNAME, guest_info::TIMEZONE];
        let all = self.info(types.iter().fold(0, |all, one| all | one)).await;
        match all {
            Err(error) if error.code().is_some_and(|code| code != code::AGENT_UNRESPONSIVE) => {
                let mut params = Params::default();
                let mut some = false;
                for one in types {
                    if let Ok(more) = self.info(one).await {
                        params.extend(more);
                        some = true;
                    }
                }
                if some { Ok(params) } else { Err(error) }
            }
            all => all,
        }
    }
}

impl Agent for LibvirtAgent {
    async fn ask(&self, question: Question) -> Result<Answer, AgentError> {
        Ok(match question {
            Question::System => Answer::System(self.system().await?),
            Question::FreezeStatus => {
                Answer::FreezeStatus(parse::freeze_status(&self.bare(commands::FREEZE_STATUS).await?)?)
            }
            Question::Agent => Answer::Agent(parse::info(&self.bare(commands::INFO).await?)?),
            Question::Filesystems => Answer::Filesystems(parse::filesystems(&self.bare(commands::FSINFO).await?)?),
            Question::Users => Answer::Users(parse::users(&self.info(guest_info::USERS).await?)),
            Question::Load => Answer::Load(parse::load(&self.info(guest_info::LOAD).await?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Writes down when it was asked what, and answers the freeze status with the number of questions so far.
    #[derive(Clone, Default)]
    struct Scripted {
        asked: Arc<Mutex<Vec<(u64, Question)>>>,
        start: Option<Instant>,
        /// How long each answer takes.
        takes: Duration,
        broken: bool,
    }

    impl Agent for Scripted {
        async fn ask(&self, question: Question) -> Result<Answer, AgentError> {
            tokio::time::sleep(self.takes).await;
            let count = {
                let mut asked = self.asked.lock().unwrap();
                asked.push((self.start.unwrap().elapsed().as_secs(), question));
                asked.len()
            };
            if self.broken {
                return Err(AgentError::FreezeStatus("?".into()));
            }
            Ok(match question {
                Question::System => Answer::System(Params::default()),
                Question::FreezeStatus => Answer::FreezeStatus(FsFreeze { status: count.to_string() }),
                Question::Agent => Answer::Agent(AgentInfo::default()),
                Question::Filesystems => Answer::Filesystems(Vec::new()),
                Question::Users => Answer::Users(Vec::new()),
                Question::Load => Answer::Load(Load::default()),
            })
        }
    }

    const INTERVALS: Intervals = Intervals {
        sys: Duration::from_secs(120),
        file: Duration::from_secs(300),
        user: Duration::from_secs(10),
        version: Duration::from_secs(300),
        fsfreeze_status: Duration::from_secs(5),
    };

    struct World {
        agent: Scripted,
        presence: watch::Sender<Presence>,
        data: watch::Receiver<GuestData>,
    }

    impl World {
        fn start(takes: Duration, broken: bool) -> Self {
            let agent = Scripted { start: Some(Instant::now()), takes, broken, ..Scripted::default() };
            let presence = watch::Sender::new(None);
            let (sender, data) = watch::channel(GuestData::default());
            tokio::spawn(poll(agent.clone(), INTERVALS, presence.subscribe(), sender));
            World { agent, presence, data }
        }

        async fn after(&self, seconds: u64) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }

        fn when(&self, question: Question) -> Vec<u64> {
            let asked = self.agent.asked.lock().unwrap();
            asked.iter().filter(|(_, what)| *what == question).map(|(when, _)| *when).collect()
        }

        fn count(&self) -> usize {
            self.agent.asked.lock().unwrap().len()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_question_has_its_rhythm() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(601).await;
        assert_eq!(world.when(Question::System), [0, 10, 30, 70, 150, 270, 390, 510]);
        assert_eq!(world.when(Question::Load), world.when(Question::System));
        assert_eq!(world.when(Question::Agent), [0, 10, 30, 70, 150, 310]);
        assert_eq!(world.when(Question::Filesystems), world.when(Question::Agent));
        assert_eq!(world.when(Question::Users), (0..=60).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(world.when(Question::FreezeStatus), (0..=120).map(|n| n * 5).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_an_agent_that_is_away() {
        let world = World::start(Duration::ZERO, false);
        world.after(1000).await;
        assert_eq!(world.count(), 0);
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.count(), 6);
        world.presence.send_replace(None);
        world.after(1000).await;
        assert_eq!(world.count(), 6, "asked while the guest was paused");
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.count(), 12, "everything is asked anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_starts_the_rhythm_anew() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(100).await;
        world.presence.send_replace(Some(2));
        world.after(25).await;
        let system = world.when(Question::System);
        assert_eq!(system, [0, 10, 30, 70, 100, 110]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_agent_has_one_question_at_a_time() {
        let world = World::start(Duration::from_secs(12), true);
        world.presence.send_replace(Some(1));
        world.after(121).await;
        assert_eq!(world.count(), 10, "ten times twelve seconds");
        for question in [Question::System, Question::Agent, Question::Filesystems, Question::Users, Question::Load] {
            assert!(!world.when(question).is_empty(), "{question:?} was starved");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_stored_and_failures_change_nothing() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.data.borrow().freeze.status, "2");
        assert!(world.data.borrow().agent.is_some());

        let broken = World::start(Duration::ZERO, true);
        broken.presence.send_replace(Some(1));
        broken.after(100).await;
        assert!(broken.count() > 6);
        assert!(!broken.data.has_changed().unwrap());
    }
}
