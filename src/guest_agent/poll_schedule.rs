//! Which question is due when (contract/notify.md 6.1): first 10 s apart, then twice as long each time, up to an interval.
//!
//! Unless a flag says how often, users and freeze status are asked for as often as the original does only while there is a
//! reason to (weakness N12): every question costs the guest, libvirt and the launcher a few wake-ups, for the life of the VM.

use std::time::Duration;

use tokio::time::Instant;

use crate::libvirt::guest_info;

/// The pause after the first answer; it doubles up to the question's interval.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The original's intervals of what is asked most often.
const USERS: Duration = Duration::from_secs(10);
const FREEZE_STATUS: Duration = Duration::from_secs(5);
/// What is due so soon after a question is asked with it, but not much before its time.
const TOGETHER: Duration = Duration::from_secs(2);
/// The part of its shortest pause by which a question may come early.
const EARLY: u32 = 4;

/// Longest pauses between two questions of a kind, as the flags say (`--qemu-agent-…-interval`). None is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Interfaces, OS, host name, time zone, load.
    pub sys: Duration,
    /// File systems.
    pub file: Duration,
    /// Users. None: 10 s while they change or somebody wants to know them, up to `sys` while not.
    pub user: Option<Duration>,
    /// The agent itself.
    pub version: Duration,
    /// Freeze status. None: 5 s while the file systems are frozen, up to `version` while not; an agent freezes nothing by
    /// itself, and its callers report their orders ([`Interest::freeze_status`]).
    pub fsfreeze_status: Option<Duration>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What libvirt asks by itself: bits of [`guest_info`].
    Info(u32),
    /// Whether the file systems are frozen.
    FreezeStatus,
    /// The agent's version and commands.
    Agent,
    /// Mounted file systems.
    Filesystems,
}

/// Interfaces, operating system, host name and time zone.
pub(super) const SYSTEM: u32 = guest_info::INTERFACES | guest_info::OS | guest_info::HOSTNAME | guest_info::TIMEZONE;

/// A question and when it is due.
pub(super) struct Task {
    pub(super) question: Question,
    shortest: Duration,
    longest: Duration,
    /// The next pause.
    pause: Duration,
    due: Instant,
    /// There can be reasons to ask often.
    watches: bool,
    /// The last try failed, and was logged.
    pub(super) failed: bool,
}

impl Task {
    fn new(question: Question, interval: Duration) -> Self {
        Task::between(question, FIRST_PAUSE.min(interval), interval, false)
    }

    /// At the flag's interval, else as often as there is reason to.
    fn watching(question: Question, flag: Option<Duration>, shortest: Duration, longest: Duration) -> Self {
        match flag {
            Some(interval) => Task::new(question, interval),
            None => Task::between(question, shortest.min(longest), longest, true),
        }
    }

    fn between(question: Question, shortest: Duration, longest: Duration, watches: bool) -> Self {
        let pause = FIRST_PAUSE.min(longest);
        Task { question, shortest, longest, pause, due: Instant::now(), watches, failed: false }
    }

    pub(super) fn restart(&mut self) {
        self.pause = FIRST_PAUSE.min(self.longest);
        self.due = Instant::now();
    }

    /// Short pauses again, the one that is under way included.
    pub(super) fn attend(&mut self) {
        if self.watches {
            self.due = self.due.min(Instant::now() + self.shortest);
            self.pause = self.shortest;
        }
    }

    /// From when on it can be asked together with others.
    pub(super) fn earliest(&self) -> Instant {
        let early = TOGETHER.min(self.shortest / EARLY);
        self.due.checked_sub(early).unwrap_or(self.due)
    }

    /// 10 s, 20 s, 40 s … up to the longest.
    pub(super) fn asked(&mut self) {
        self.due = Instant::now() + self.pause;
        self.pause = self.pause.saturating_mul(2).min(self.longest);
    }
}

/// All questions, and whether the agent has said which of them it can be asked.
pub(super) struct Schedule {
    pub(super) tasks: [Task; 6],
    /// The agent has answered [`Question::Agent`] since the schedule began.
    pub(super) introduced: bool,
}

impl Schedule {
    /// In the order in which a new agent is asked. virt-handler sees an agent as connected once it has answered the first
    /// question, and then reads the guest's system; besides, the list of its commands allows to ask several things at once.
    pub(super) fn new(intervals: Intervals) -> Self {
        let Intervals { sys, file, user, version, fsfreeze_status } = intervals;
        let tasks = [
            Task::new(Question::Agent, version),
            Task::new(Question::Info(SYSTEM), sys),
            Task::watching(Question::FreezeStatus, fsfreeze_status, FREEZE_STATUS, version),
            Task::new(Question::Filesystems, file),
            Task::watching(Question::Info(guest_info::USERS), user, USERS, sys),
            Task::new(Question::Info(guest_info::LOAD), sys),
        ];
        Schedule { tasks, introduced: false }
    }

    /// Everything anew: a new agent may know other commands, and a frozen one had refused most of them.
    pub(super) fn begin(&mut self) {
        self.tasks.iter_mut().for_each(Task::restart);
        self.introduced = false;
    }

    pub(super) fn each(&mut self, question: Question, change: fn(&mut Task)) {
        self.tasks.iter_mut().filter(|task| task.question == question).for_each(change);
    }

    /// What is due next. To wait for what is due soon after a question costs more than to ask it now.
    pub(super) fn next(&self, last: Instant) -> Option<(Instant, Question)> {
        let (now, others) = (Instant::now(), last.elapsed() < TOGETHER);
        let when = |task: &Task| match others && task.earliest() <= now {
            true => task.due.min(now),
            false => task.due,
        };
        self.tasks.iter().map(|task| (when(task), task.question)).min_by_key(|(when, _)| *when)
    }
}
