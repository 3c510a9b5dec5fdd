//! Asks the agent again and again, as `poll_schedule` says (contract/notify.md 6.1, 6.2).
//!
//! What the reader can rely on: one question at a time; the poller sleeps in between; while the guest is paused or its
//! agent away it waits for the sign that this is over, and then asks everything anew.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::agent::{Agent, Answer, COMMANDS, FROZEN};
use super::data::{AgentInfo, GuestData};
use super::parse;
use super::poll_schedule::{Intervals, Question, SYSTEM, Schedule, Task};
use crate::libvirt::{Params, guest_info};

/// Reasons to ask soon. Clones of its `Arc` are held by those who have them.
#[derive(Debug, Default)]
pub struct Interest {
    /// The agent was ordered to freeze or thaw: its status is asked for at once.
    pub freeze_status: Notify,
    /// Somebody wants to know the users: they are asked for as often as the original does, for a while.
    pub users: Notify,
}

/// Whether the agent can be asked. A number stands for one connection of the agent, so that a new one is seen as such.
pub type Presence = Option<u64>;

/// Asks `agent` while `presence` is true and keeps `data` current, until the sender of `presence` ends.
pub async fn poll(
    agent: impl Agent,
    intervals: Intervals,
    mut presence: watch::Receiver<Presence>,
    interest: Arc<Interest>,
    data: watch::Sender<GuestData>,
) {
    let mut schedule = Schedule::new(intervals);
    let mut last = Instant::now();
    loop {
        let Ok(session) = presence.wait_for(Option::is_some).await.map(|session| *session) else { return };
        schedule.begin();
        while *presence.borrow_and_update() == session {
            let Some((due, question)) = schedule.next(last) else { return };
            tokio::select! {
                biased;
                changed = presence.changed() => if changed.is_err() { return },
                // What is known of it is out of date.
                () = interest.freeze_status.notified() => schedule.each(Question::FreezeStatus, Task::restart),
                () = interest.users.notified() => schedule.each(Question::Info(guest_info::USERS), Task::attend),
                () = sleep_until(due) => {
                    ask(&agent, question, &mut schedule, &data).await;
                    last = Instant::now();
                }
            }
        }
    }
}

/// Asks `first`, and with it what libvirt can find out in the same call, once the agent has said what it can be asked:
/// a question too many makes libvirt answer none.
async fn ask(agent: &impl Agent, first: Question, schedule: &mut Schedule, data: &watch::Sender<GuestData>) {
    let (now, introduced) = (Instant::now(), schedule.introduced);
    let mut asked: Vec<&mut Task> = schedule
        .tasks
        .iter_mut()
        .filter(|task| match (first, task.question) {
            (first, question) if first == question => true,
            (Question::Info(_), Question::Info(_)) => introduced && task.earliest() <= now,
            (_, _) => false,
        })
        .collect();
    let types = asked.iter().fold(0, |all, task| match task.question {
        Question::Info(types) => all | types,
        Question::FreezeStatus | Question::Agent | Question::Filesystems => all,
    });
    let question = match first {
        Question::Info(_) if introduced => Question::Info(answerable(types, &data.borrow())),
        first => first,
    };
    let answer = match question {
        Question::Info(0) => Ok(Answer::Info(0, Params::default())),
        question => agent.ask(question).await,
    };
    let before = data.borrow().clone();
    let stored = answer.map(|answer| {
        data.send_if_modified(|data| {
            store(data, answer);
            *data != before
        })
    });
    let failure = stored.err();
    if first == Question::Agent {
        let refused = failure.is_some();
        data.send_if_modified(|data| std::mem::replace(&mut data.refused, refused) != refused);
    }
    let frozen = |data: &GuestData| data.freeze.status == FROZEN;
    let (watch, thawed) = {
        let after = data.borrow();
        let told_frozen = first == Question::FreezeStatus && failure.is_none() && frozen(&after);
        // Also at an answer that says so again: as long as it is so, there is a reason to ask.
        (before.users != after.users || told_frozen, frozen(&before) && !frozen(&after))
    };
    for task in &mut asked {
        // Once per streak: a guest can make every question fail, for ever.
        let failed_before = std::mem::replace(&mut task.failed, failure.is_some());
        if let Some(error) = failure.as_ref().filter(|_| !failed_before) {
            tracing::info!(v = 3, "Fetching guest info failed ({:?}): {error}", task.question);
        }
        if watch {
            task.attend();
        }
        task.asked();
    }
    schedule.introduced |= first == Question::Agent && failure.is_none();
    if thawed {
        schedule.begin();
        schedule.each(Question::FreezeStatus, Task::asked);
    }
}

/// Those of `types` that the agent can answer, by its own account; all of them where that names no command, or was given
/// to the previous launcher.
fn answerable(types: u32, data: &GuestData) -> u32 {
    let own = data.agent.as_ref().filter(|agent| !agent.commands.is_empty() && !data.restored);
    let Some(AgentInfo { commands, .. }) = own else { return types };
    let lacks = |name: &str| !commands.iter().any(|command| command.name == name && command.enabled);
    let lacking = COMMANDS.iter().filter(|(_, command)| lacks(command)).fold(0, |all, (kind, _)| all | kind);
    types & !lacking
}

fn store(data: &mut GuestData, answer: Answer) {
    match answer {
        Answer::Info(types, params) => {
            // What was not asked for is kept.
            if types & SYSTEM != 0 {
                parse::system(&params, data);
            }
            if types & guest_info::USERS != 0 {
                data.users = parse::users(&params);
            }
            if types & guest_info::LOAD != 0 {
                data.load = parse::load(&params);
            }
        }
        Answer::FreezeStatus(freeze) => data.freeze = freeze,
        Answer::Agent(info) => (data.agent, data.restored) = (Some(info), false),
        Answer::Filesystems(filesystems) => data.filesystems = filesystems,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::data::{AgentCommand, Introduction};
    use super::super::error::AgentError;
    use super::*;
    use crate::domain::FsFreeze;

    /// Writes down when it was asked what, and answers the freeze status with the number of questions so far, unless it has
    /// one.
    #[derive(Clone, Default)]
    struct Scripted {
        asked: Arc<Mutex<Vec<(u64, Question)>>>,
        start: Option<Instant>,
        /// How long each answer takes.
        takes: Duration,
        broken: bool,
        freeze: Arc<Mutex<Option<&'static str>>>,
    }

    impl Agent for Scripted {
        async fn ask(&self, question: Question) -> Result<Answer, AgentError> {
            tokio::time::sleep(self.takes).await;
            let count = {
                let mut asked = self.asked.lock().unwrap();
                asked.push((self.start.unwrap().elapsed().as_secs(), question));
                asked.len()
            };
            let refused = matches!(question, Question::Info(_) | Question::Filesystems)
                && *self.freeze.lock().unwrap() == Some(FROZEN);
            if self.broken || refused {
                return Err(AgentError::FreezeStatus("?".into()));
            }
            Ok(match question {
                Question::Info(types) => Answer::Info(types, Params::default()),
                Question::FreezeStatus => {
                    let status = self.freeze.lock().unwrap().map_or(count.to_string(), str::to_owned);
                    Answer::FreezeStatus(FsFreeze { status })
                }
                Question::Agent => Answer::Agent(AgentInfo::default()),
                Question::Filesystems => Answer::Filesystems(Vec::new()),
            })
        }
    }

    const INTERVALS: Intervals = Intervals {
        sys: Duration::from_secs(120),
        file: Duration::from_secs(300),
        user: Some(Duration::from_secs(10)),
        version: Duration::from_secs(300),
        fsfreeze_status: Some(Duration::from_secs(5)),
    };

    struct World {
        agent: Scripted,
        presence: watch::Sender<Presence>,
        interest: Arc<Interest>,
        data: watch::Receiver<GuestData>,
    }

    impl World {
        fn start(takes: Duration, broken: bool) -> Self {
            Self::with(INTERVALS, Scripted { takes, broken, ..Scripted::default() })
        }

        fn with(intervals: Intervals, agent: Scripted) -> Self {
            let agent = Scripted { start: Some(Instant::now()), ..agent };
            let presence = watch::Sender::new(None);
            let interest = Arc::new(Interest::default());
            let (sender, data) = watch::channel(GuestData::default());
            tokio::spawn(poll(agent.clone(), intervals, presence.subscribe(), Arc::clone(&interest), sender));
            World { agent, presence, interest, data }
        }

        async fn after(&self, seconds: u64) {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }

        fn when(&self, question: Question) -> Vec<u64> {
            let asked = self.agent.asked.lock().unwrap();
            let asked_for = |what: &Question| match (*what, question) {
                (Question::Info(types), Question::Info(wanted)) => types & wanted == wanted,
                (what, wanted) => what == wanted,
            };
            asked.iter().filter(|(_, what)| asked_for(what)).map(|(when, _)| *when).collect()
        }

        fn count(&self) -> usize {
            self.agent.asked.lock().unwrap().len()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_asked_at_their_intervals() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(601).await;
        assert_eq!(world.when(Question::Info(SYSTEM)), [0, 10, 30, 70, 150, 270, 390, 510]);
        assert_eq!(world.when(Question::Info(guest_info::LOAD)), world.when(Question::Info(SYSTEM)));
        assert_eq!(world.when(Question::Agent), [0, 10, 30, 70, 150, 310]);
        assert_eq!(world.when(Question::Filesystems), world.when(Question::Agent));
        assert_eq!(world.when(Question::Info(guest_info::USERS)), (0..=60).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(world.when(Question::FreezeStatus), (0..=120).map(|n| n * 5).collect::<Vec<_>>());
    }

    /// The defaults: no flag says how often.
    const LAZY: Intervals = Intervals { user: None, fsfreeze_status: None, ..INTERVALS };

    #[tokio::test(start_paused = true)]
    async fn thawed_guest_is_left_alone_and_a_frozen_one_is_watched() {
        let world = World::with(LAZY, Scripted::default());
        let status = |status| *world.agent.freeze.lock().unwrap() = Some(status);
        status("thawed");
        world.presence.send_replace(Some(1));
        world.after(301).await;
        assert_eq!(world.when(Question::FreezeStatus), [0, 10, 30, 70, 150]);
        status("frozen");
        world.interest.freeze_status.notify_one();
        world.after(20).await;
        assert_eq!(world.data.borrow().freeze.status, "frozen");
        assert_eq!(world.when(Question::FreezeStatus)[5..], [301, 306, 310, 315, 320]);
        status("thawed");
        world.after(60).await;
        assert_eq!(world.data.borrow().freeze.status, "thawed");
        assert_eq!(world.when(Question::FreezeStatus)[10..], [325, 335, 355]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_frozen_guest_refused_is_asked_again_once_it_is_thawed() {
        let world = World::with(LAZY, Scripted::default());
        *world.agent.freeze.lock().unwrap() = Some(FROZEN);
        world.presence.send_replace(Some(1));
        world.after(61).await;
        assert_eq!(world.data.borrow().freeze.status, FROZEN);
        *world.agent.freeze.lock().unwrap() = Some("thawed");
        world.after(10).await;
        let all = [Question::Info(SYSTEM), Question::Agent, Question::Filesystems, Question::Info(guest_info::USERS)];
        for question in all {
            assert!(world.when(question).contains(&65), "{question:?}: {:?}", world.when(question));
        }
        assert_eq!(world.when(Question::FreezeStatus).iter().filter(|when| **when == 65).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn interval_of_a_second_is_a_second() {
        let often = Some(Duration::from_secs(1));
        let world = World::with(Intervals { fsfreeze_status: often, user: often, ..INTERVALS }, Scripted::default());
        world.presence.send_replace(Some(1));
        world.after(60).await;
        for question in [Question::FreezeStatus, Question::Info(guest_info::USERS)] {
            assert!((60..=63).contains(&world.when(question).len()), "{question:?}: {:?}", world.when(question));
        }
        assert_eq!(world.when(Question::Info(SYSTEM)), [0, 8, 26], "with the users, two seconds early");
    }

    #[tokio::test(start_paused = true)]
    async fn users_are_asked_for_often_while_somebody_wants_to_know_them() {
        let world = World::with(LAZY, Scripted::default());
        world.presence.send_replace(Some(1));
        world.after(400).await;
        assert_eq!(world.when(Question::Info(guest_info::USERS)), [0, 10, 30, 70, 150, 270, 390]);
        for _ in 0..10 {
            world.interest.users.notify_one();
            world.after(1).await;
        }
        world.after(31).await;
        assert_eq!(world.when(Question::Info(guest_info::USERS))[7..], [410, 420, 440]);
    }

    #[test]
    fn agent_is_asked_for_what_it_says_it_can_answer() {
        let command = |name: &str, enabled| AgentCommand { name: name.to_owned(), enabled };
        let commands = [("guest-get-osinfo", true), ("guest-get-users", false), ("guest-ping", true)];
        let with = |commands| GuestData {
            agent: Some(AgentInfo { commands, ..AgentInfo::default() }),
            ..GuestData::default()
        };
        let all = SYSTEM | guest_info::USERS | guest_info::LOAD;
        let told = with(commands.map(|(name, enabled)| command(name, enabled)).to_vec());
        assert_eq!(answerable(all, &told), guest_info::OS);
        assert_eq!(answerable(guest_info::USERS, &told), 0);
        assert_eq!(answerable(all, &with(Vec::new())), all, "it has said nothing");
        assert_eq!(answerable(all, &GuestData::default()), all);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_an_agent_that_is_away() {
        let world = World::start(Duration::ZERO, false);
        world.after(1000).await;
        assert_eq!(world.count(), 0);
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.count(), 4, "the system, users and load together, since the agent has reported its commands");
        world.presence.send_replace(None);
        world.after(1000).await;
        assert_eq!(world.count(), 4, "asked while the guest was paused");
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.count(), 8, "everything is asked anew");
    }

    #[tokio::test(start_paused = true)]
    async fn new_connection_restarts_the_schedule() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(100).await;
        world.presence.send_replace(Some(2));
        world.after(25).await;
        let system = world.when(Question::Info(SYSTEM));
        assert_eq!(system, [0, 10, 30, 70, 100, 110]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_agent_has_one_question_at_a_time() {
        let world = World::start(Duration::from_secs(12), true);
        world.presence.send_replace(Some(1));
        world.after(121).await;
        assert_eq!(world.count(), 10, "ten times twelve seconds");
        for question in [
            Question::Info(SYSTEM),
            Question::Agent,
            Question::Filesystems,
            Question::Info(guest_info::USERS),
            Question::Info(guest_info::LOAD),
        ] {
            assert!(!world.when(question).is_empty(), "{question:?} was starved");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_stored_and_failures_change_nothing() {
        let world = World::start(Duration::ZERO, false);
        world.presence.send_replace(Some(1));
        world.after(1).await;
        assert_eq!(world.data.borrow().freeze.status, "3");
        assert!(world.data.borrow().agent.is_some());

        let broken = World::start(Duration::ZERO, true);
        broken.presence.send_replace(Some(1));
        broken.after(100).await;
        assert!(broken.count() > 4);
        let told = GuestData { refused: true, ..GuestData::default() };
        assert_eq!(*broken.data.borrow(), told, "only the failed attempt is noted");
    }

    #[tokio::test(start_paused = true)]
    async fn agent_is_asked_for_itself_before_all_else() {
        let world = World::start(Duration::ZERO, false);
        for session in 1..=3 {
            let before = world.count();
            world.presence.send_replace(Some(session));
            world.after(100).await;
            assert_eq!(world.agent.asked.lock().unwrap()[before].1, Question::Agent, "session {session}");
        }
    }

    #[test]
    fn what_an_agent_told_an_earlier_launcher_does_not_say_what_this_one_can_be_asked() {
        let commands = vec![AgentCommand { name: "guest-get-osinfo".to_owned(), enabled: true }];
        let mut data = GuestData::default();
        let agent = AgentInfo { version: "7".into(), commands };
        data.restore(Introduction { agent: Some(agent.clone()), hostname: "h".into(), ..Introduction::default() });
        assert!(data.is_introduced() && data.hostname == "h");
        assert_eq!(answerable(guest_info::USERS, &data), guest_info::USERS);
        store(&mut data, Answer::Agent(agent));
        assert_eq!(answerable(guest_info::USERS, &data), 0);
    }
}
