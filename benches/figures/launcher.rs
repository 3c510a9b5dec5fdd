//! The launcher in its image, with running VMs: time, memory, wake-ups. `PEER_IMAGE=…` takes the same figures of another
//! image in the same run, through the same sockets.

use std::time::Duration;

use crate::Run;
use crate::running;
use crate::support::figures::life::{Life, Missed, Span, median};
use crate::support::figures::report::{Figure, PEER};
use crate::support::pod::demo_vmi;

/// How much is measured, and how long is waited for what does not come.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// VMs that are started and ended.
    pub lives: usize,
    /// Calls of one kind; so many are also what memory is looked at after.
    pub calls: usize,
    /// Notifications.
    pub events: usize,
    /// A new agent is asked often at first.
    pub settled: Duration,
    /// For how long wake-ups are counted.
    pub idle: Duration,
    /// For each step. Nothing takes longer on a machine that works.
    pub bound: Duration,
}

impl Plan {
    /// An hour's worth of notifications, one every 3.6 s; wake-ups over the longest usual pause between two questions to the
    /// agent.
    const WHOLE: Plan = Plan {
        lives: 5,
        calls: 10_000,
        events: 1_000,
        settled: Duration::from_secs(80),
        idle: Duration::from_secs(120),
        bound: Duration::from_secs(120),
    };
    /// For a first look.
    const QUICK: Plan = Plan {
        lives: 1,
        calls: 1_000,
        events: 50,
        settled: Duration::from_secs(5),
        idle: Duration::from_secs(10),
        bound: Duration::from_secs(60),
    };
}

/// After so many lives that were not followed to their end, the others would only take time.
const FAILED_LIVES: usize = 2;

/// An image to measure.
pub struct Subject {
    /// What the names of its figures begin with.
    pub prefix: &'static str,
    pub image: String,
}

impl Subject {
    /// A figure of this image.
    pub fn figure(&self, name: &str, value: Option<f64>, unit: &'static str, how: impl Into<String>) -> Figure {
        Figure { name: format!("{}{name}", self.prefix), value, unit, how: how.into() }
    }
}

pub fn figures(run: &Run) {
    let given = |name| std::env::var(name).ok().filter(|image: &String| !image.is_empty());
    let subject = |prefix, name| given(name).map(|image| Subject { prefix, image });
    let subjects: Vec<Subject> =
        [subject("", "VIRT_LAUNCHER_IMAGE"), subject(PEER, "PEER_IMAGE")].into_iter().flatten().collect();
    if subjects.first().is_none_or(|first| !first.prefix.is_empty()) {
        run.add(Figure::not_taken("all", "no image is given (make bench IMAGE=…)"));
    }
    if subjects.is_empty() {
        return;
    }
    let plan = if run.quick { Plan::QUICK } else { Plan::WHOLE };
    lives(run, &subjects, &plan);
    for subject in &subjects {
        // What fails at the VM's end must not cost the other image's figures.
        run.part(&format!("{}the end of the running VM", subject.prefix), || {
            running::figures(run, subject, &plan);
            Ok(())
        });
    }
}

/// Time: how long a VM takes to begin and to end. The images take turns, so that a machine that is busy for a while is busy
/// for both.
fn lives(run: &Run, subjects: &[Subject], plan: &Plan) {
    let vmi = demo_vmi();
    let mut lives: Vec<Vec<Life>> = subjects.iter().map(|_| Vec::new()).collect();
    for number in 1..=plan.lives {
        for (subject, lives) in subjects.iter().zip(&mut lives) {
            if lives.iter().filter(|life| life.missed.is_some()).count() >= FAILED_LIVES {
                continue;
            }
            let life = Life::live(&run.guard, &subject.image, &vmi, plan.bound);
            run.progress(&format!("{}VM {number} of {}: {}", subject.prefix, plan.lives, summary(&life)));
            lives.push(life);
            run.keep(medians(subject, lives));
        }
    }
    for (subject, lives) in subjects.iter().zip(&lives) {
        for figure in medians(subject, lives) {
            run.add(figure);
        }
    }
}

/// The figures of the lives so far.
fn medians(subject: &Subject, lives: &[Life]) -> Vec<Figure> {
    let figure = |span: Span| {
        let (value, of) = median(lives, span);
        let (name, how) = span.texts();
        subject.figure(name, value, "ms", format!("{how}; {of}"))
    };
    Span::ALL.into_iter().map(figure).collect()
}

/// A life in one line, which is printed before the medians can be taken.
fn summary(life: &Life) -> String {
    let spans = life.spans.iter().map(|(span, value)| format!("{} {value:.1} ms", span.texts().0));
    let missed = life.missed.as_ref().map(Missed::to_string);
    let complaints = life.complaints.iter().map(|complaint| format!("virt-handler complains: {complaint}"));
    spans.chain(missed).chain(complaints).collect::<Vec<_>>().join(", ")
}
