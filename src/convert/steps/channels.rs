//! virtio-serial channels (contract/domain-xml-qemu.md 7.1).

use super::super::context::PRIVATE;
use super::{Context, ConvertError};
use crate::domain::{Channel, ChannelSource, ChannelTarget, DomainSpec};

pub(super) fn channels(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let channel = |name: &str, source| Channel {
        type_: "unix".into(),
        source,
        target: Some(ChannelTarget { name: name.into(), type_: "virtio".into(), ..ChannelTarget::default() }),
    };
    domain.devices.channels.push(channel("org.qemu.guest_agent.0", None));
    if context.vmi.spec.domain.devices.downward_metrics.is_some() {
        let path = format!("{PRIVATE}/downwardmetrics-channel/downwardmetrics.sock");
        let source = ChannelSource { mode: "bind".into(), path };
        domain.devices.channels.push(channel("org.github.vhostmd.1", Some(source)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::written;

    const AGENT: &str = r#"<channel type="unix"><target name="org.qemu.guest_agent.0" type="virtio"/></channel>"#;

    #[test]
    fn channels_always_hold_the_guest_agents() {
        assert_eq!(written(super::channels, json!({})), AGENT);
    }

    #[test]
    fn channels_hold_downward_metrics_where_they_are_asked_for() {
        let socket = "/var/run/kubevirt-private/downwardmetrics-channel/downwardmetrics.sock";
        assert_eq!(
            written(super::channels, json!({"devices": {"downwardMetrics": {}}})),
            format!(
                r#"{AGENT}<channel type="unix"><source mode="bind" path="{socket}"/><target name="org.github.vhostmd.1" type="virtio"/></channel>"#
            )
        );
    }
}
