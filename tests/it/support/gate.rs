//! Which tests run beside each other. cargo runs the tests of one program on as many threads as the machine has processors;
//! tests that boot guests and tests that hold the clock against a bound of a second or two take turns, so that no bound is
//! missed for a guest's sake. Tests of one kind run side by side, and all others whenever a thread is free.
//!
//! The tests' order is that of their names, so that those of a kind follow each other and few wait.

use std::cell::RefCell;
use std::sync::{Condvar, Mutex, PoisonError};

/// What a test does to its neighbours, or minds of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It runs containers and guests.
    Guests,
    /// It measures what takes milliseconds on a machine that is free.
    Clocked,
}

struct Inside {
    kind: Kind,
    tests: usize,
}

static INSIDE: Mutex<Inside> = Mutex::new(Inside { kind: Kind::Guests, tests: 0 });
static LEFT: Condvar = Condvar::new();

thread_local! {
    /// Until the thread's end, which is the test's, or until a test of another kind runs in the same thread
    /// (`--test-threads=1`).
    static PERMIT: RefCell<Option<Permit>> = const { RefCell::new(None) };
}

struct Permit(Kind);

impl Permit {
    fn wait(kind: Kind) -> Self {
        let inside = INSIDE.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |inside: &mut Inside| inside.tests > 0 && inside.kind != kind;
        let mut inside = LEFT.wait_while(inside, others).unwrap_or_else(PoisonError::into_inner);
        *inside = Inside { kind, tests: inside.tests + 1 };
        Permit(kind)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        INSIDE.lock().unwrap_or_else(PoisonError::into_inner).tests -= 1;
        LEFT.notify_all();
    }
}

fn enter(kind: Kind) {
    PERMIT.with_borrow_mut(|permit| {
        if permit.as_ref().is_none_or(|permit| permit.0 != kind) {
            *permit = None;
            *permit = Some(Permit::wait(kind));
        }
    });
}

/// For the rest of the test that calls it: containers and guests run.
pub fn guests() {
    enter(Kind::Guests);
}

/// For the rest of the test that calls it: none of this program's tests runs a guest.
pub fn clocked() {
    enter(Kind::Clocked);
}
