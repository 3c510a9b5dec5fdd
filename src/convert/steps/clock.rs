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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    #[test]
    fn clock_offset_is_utc_or_the_time_zone() {
        let clock = |clock| written(super::clock, json!({"clock": clock}));
        assert_eq!(clock(json!({"utc": {}})), r#"<clock offset="utc" adjustment="reset"/>"#);
        assert_eq!(clock(json!({"utc": {"offsetSeconds": -60}})), r#"<clock offset="utc" adjustment="-60"/>"#);
        let zone = r#"<clock offset="timezone" timezone="Europe/Berlin"/>"#;
        assert_eq!(clock(json!({"timezone": "Europe/Berlin"})), zone);
        assert_eq!(written(super::clock, json!({})), "");
    }

    #[test]
    fn clock_timers_are_present_by_default_and_keep_only_the_fields_that_they_have() {
        let timer = json!({"tickPolicy": "delay", "track": "guest"});
        let off = json!({"present": false, "tickPolicy": "delay"});
        let timers = json!({"rtc": timer, "pit": timer, "kvm": timer, "hpet": off, "hyperv": timer});
        assert_eq!(
            written(super::clock, json!({"clock": {"timer": timers}})),
            [
                "<clock>",
                r#"<timer name="rtc" tickpolicy="delay" present="yes" track="guest"/>"#,
                r#"<timer name="pit" tickpolicy="delay" present="yes"/>"#,
                r#"<timer name="kvmclock" present="yes"/>"#,
                r#"<timer name="hpet" tickpolicy="delay" present="no"/>"#,
                r#"<timer name="hypervclock" present="yes"/>"#,
                "</clock>",
            ]
            .concat()
        );
    }

    #[test]
    fn clock_pins_the_tsc_frequency_for_guests_that_rely_on_it() {
        let clock = |domain: Value, frequency: i64| {
            let mut vmi = vmi(domain);
            vmi["status"] = json!({"topologyHints": {"tscFrequency": frequency}});
            run(super::clock, vmi, json!({})).unwrap()
        };
        let feature = |policy| json!({"cpu": {"features": [{"name": "invtsc", "policy": policy}]}});
        let hyperv = |enabled| json!({"features": {"hyperv": {"reenlightenment": enabled}}});
        let pinned = r#"<clock><timer name="tsc" frequency="2500"/></clock>"#;
        assert_eq!(clock(feature("require"), 2500), pinned);
        assert_eq!(clock(feature("force"), 2500), pinned);
        assert_eq!(clock(hyperv(json!({"enabled": true})), 2500), pinned);
        for (domain, frequency) in
            [(feature("optional"), 2500), (feature("require"), 0), (hyperv(json!({})), 2500), (json!({}), 2500)]
        {
            assert_eq!(clock(domain.clone(), frequency), "", "{domain}");
        }
    }
}
