//! Clock and timers (contract/domain-xml-qemu.md 5.7).

use super::{Context, ConvertError, yes_no};
use crate::domain::{Clock, DomainSpec, Timer};
use crate::vmi;

pub(super) fn clock(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    domain.clock = context.vmi.spec.domain.clock.as_ref().map(from_spec);
    if let Some(frequency) = tsc_frequency(context) {
        domain.clock.get_or_insert_default().timer.push(Timer {
            name: "tsc".into(),
            frequency: frequency.to_string(),
            ..Timer::default()
        });
    }
    Ok(())
}

fn from_spec(spec: &vmi::Clock) -> Clock {
    let mut clock = Clock::default();
    if let Some(utc) = &spec.utc {
        clock.offset = "utc".into();
        clock.adjustment = utc.offset_seconds.map_or_else(|| "reset".into(), |seconds| seconds.to_string());
    } else if let Some(timezone) = &spec.timezone {
        clock.offset = "timezone".into();
        clock.timezone.clone_from(timezone);
    }
    let Some(timers) = &spec.timer else { return clock };
    for (name, timer, policy, track) in [
        ("rtc", &timers.rtc, true, true),
        ("pit", &timers.pit, true, false),
        ("kvmclock", &timers.kvm, false, false),
        ("hpet", &timers.hpet, true, false),
        ("hypervclock", &timers.hyperv, false, false),
    ] {
        if let Some(timer) = timer {
            clock.timer.push(Timer {
                name: name.into(),
                present: yes_no(timer.present.unwrap_or(true)),
                tick_policy: if policy { timer.tick_policy.clone() } else { String::new() },
                track: if track { timer.track.clone() } else { String::new() },
                ..Timer::default()
            });
        }
    }
    clock
}

/// The TSC frequency that the guest must be given, if it relies on it.
fn tsc_frequency(context: &Context<'_>) -> Option<i64> {
    let hints = context.vmi.status.topology_hints.as_ref()?;
    let frequency = hints.tsc_frequency.filter(|frequency| *frequency > 0)?;
    let spec = &context.vmi.spec.domain;
    let invtsc = spec.cpu.as_ref().and_then(|cpu| cpu.features.iter().find(|feature| feature.name == "invtsc"));
    let by_feature = invtsc.is_some_and(|feature| matches!(feature.policy.as_str(), "require" | "force"));
    let hyperv = spec.features.as_ref().and_then(|features| features.hyperv.as_ref());
    let reenlightenment = hyperv.and_then(|hyperv| hyperv.reenlightenment.as_ref());
    let by_hyperv = reenlightenment.is_some_and(|feature| feature.enabled == Some(true));
    (by_feature || by_hyperv).then_some(frequency)
}
