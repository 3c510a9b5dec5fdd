//! libvirt's numbers of domain states, their reasons, and lifecycle events.

/// `virDomainState`, and the reasons of states that something depends on.
pub mod state {
    /// No state.
    pub const NOSTATE: i32 = 0;
    /// Running.
    pub const RUNNING: i32 = 1;
    /// Paused.
    pub const PAUSED: i32 = 3;
    /// Being shut down.
    pub const SHUTDOWN: i32 = 4;
    /// Shut off.
    pub const SHUTOFF: i32 = 5;
    /// Crashed.
    pub const CRASHED: i32 = 6;

    /// It runs because it was booted.
    pub const RUNNING_BOOTED: i32 = 1;
    /// Somebody paused it.
    pub const PAUSED_USER: i32 = 1;
    /// A disk failed.
    pub const PAUSED_IO_ERROR: i32 = 5;
    /// The pause is part of the start.
    pub const PAUSED_STARTING_UP: i32 = 11;
    /// The guest went down by itself.
    pub const SHUTOFF_SHUTDOWN: i32 = 1;
    /// Its process was ended.
    pub const SHUTOFF_DESTROYED: i32 = 2;
    /// Its process ended by itself.
    pub const SHUTOFF_CRASHED: i32 = 3;

    /// Not there or not alive: a sync may start the domain.
    pub fn is_down(state: i32) -> bool {
        matches!(state, NOSTATE | SHUTDOWN | SHUTOFF | CRASHED)
    }

    /// Whether a domain has a hypervisor that runs its guest or will; one that is only starting may still be cleared away.
    pub fn has_hypervisor(state: i32, reason: i32) -> bool {
        let starting = state == PAUSED && reason == PAUSED_STARTING_UP;
        !is_down(state) && !starting
    }
}

/// `virDomainEventType`, and the details of events that something depends on.
pub mod event {
    /// Defined.
    pub const DEFINED: i32 = 0;
    /// Undefined.
    pub const UNDEFINED: i32 = 1;
    /// Started.
    pub const STARTED: i32 = 2;
    /// Paused.
    pub const SUSPENDED: i32 = 3;
    /// Runs again.
    pub const RESUMED: i32 = 4;
    /// Shut off.
    pub const STOPPED: i32 = 5;
    /// The guest crashed.
    pub const CRASHED: i32 = 8;

    /// Not known before.
    pub const DEFINED_ADDED: i32 = 0;
    /// It came from another host.
    pub const STARTED_MIGRATED: i32 = 1;
    /// The guest went down by itself.
    pub const STOPPED_SHUTDOWN: i32 = 0;
    /// Its process was ended.
    pub const STOPPED_DESTROYED: i32 = 1;
    /// Its process ended by itself.
    pub const STOPPED_CRASHED: i32 = 2;
    /// It went to another host.
    pub const STOPPED_MIGRATED: i32 = 3;
    /// The guest panicked; the other detail, a crash kernel that is loaded, is followed by more.
    pub const CRASHED_PANICKED: i32 = 0;
}
