//! Log lines in KubeVirt's JSON form (contract/lifecycle.md 5): one object per line on standard error, keys in
//! alphabetical order, one write per line.
//!
//! `Record` is the line itself and needs nothing but memory for its text; `Logger` writes such lines for PID 1, which
//! keeps away from `tracing`; `init` arranges that `tracing` events become records; `forward` re-emits what libvirt and
//! the hypervisor said; `shares` finds out whom an operation waited for.

mod forward;
mod layer;
mod logger;
mod record;
mod shares;

pub use forward::forwarded;
pub use layer::init;
pub use logger::Logger;
pub use record::{Level, Record, timestamp, timestamp_now};
pub use shares::{Share, Shares, share, shared_out};

/// The environment variable that overrides `-v` (contract/lifecycle.md 2.4).
pub const VERBOSITY_VARIABLE: &str = "VIRT_LAUNCHER_LOG_VERBOSITY";

/// The verbosity of an ordinary info line.
pub const DEFAULT_VERBOSITY: i32 = 2;

/// The verbosity in force in this process: the environment's, unless it is absent, negative or no number (then a warning is
/// due, which is the second value), else `flag`, that of `-v`.
pub fn verbosity(flag: i32) -> (i32, Option<String>) {
    let environment = std::env::var_os(VERBOSITY_VARIABLE).map(|value| value.to_string_lossy().into_owned());
    in_force(flag, environment.as_deref())
}

fn in_force(flag: i32, environment: Option<&str>) -> (i32, Option<String>) {
    match environment {
        None => (flag, None),
        Some(text) => match text.trim().parse::<i32>() {
            Ok(number) if number >= 0 => (number, None),
            Ok(_) => (flag, None),
            Err(error) => (flag, Some(format!("{VERBOSITY_VARIABLE}={text:?} is not used: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_overrides_the_flag_when_it_makes_sense() {
        assert_eq!(in_force(2, None), (2, None));
        assert_eq!(in_force(2, Some("6")), (6, None));
        assert_eq!(in_force(3, Some("-1")), (3, None));
        let (number, warning) = in_force(3, Some("many"));
        assert_eq!(number, 3);
        assert!(warning.unwrap().contains("many"));
    }
}
