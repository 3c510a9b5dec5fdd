//! Kubernetes events about the VM (contract/notify.md 3.2).

use serde::{Serialize, Serializer, ser::SerializeMap};

/// `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum K8sEventType {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// The VMI that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvolvedObject {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; virt-handler refuses an event with another one.
    pub uid: String,
}

/// An event as virt-handler passes it on to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct K8sEvent {
    /// What it is about.
    pub involved_object: InvolvedObject,
    /// How much it matters.
    pub event_type: K8sEventType,
    /// One word for machines, such as `IOerror`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl Serialize for InvolvedObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let InvolvedObject { namespace, name, uid } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "VirtualMachineInstance")?;
        // Kubernetes leaves empty ones out.
        for (key, value) in [("namespace", namespace), ("name", name), ("uid", uid)] {
            if !value.is_empty() {
                map.serialize_entry(key, value)?;
            }
        }
        map.serialize_entry("apiVersion", "kubevirt.io/v1")?;
        map.end()
    }
}

/// `core/v1` Event with everything that the launcher does not know at its zero value, as Kubernetes writes it.
impl Serialize for K8sEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let K8sEvent { involved_object, event_type, reason, message } = self;
        let empty = serde_json::Map::new();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("metadata", &empty)?;
        map.serialize_entry("involvedObject", involved_object)?;
        for (key, value) in [("reason", reason), ("message", message)] {
            if !value.is_empty() {
                map.serialize_entry(key, value)?;
            }
        }
        map.serialize_entry("source", &empty)?;
        map.serialize_entry("firstTimestamp", &())?;
        map.serialize_entry("lastTimestamp", &())?;
        map.serialize_entry("type", event_type)?;
        map.serialize_entry("eventTime", &())?;
        map.serialize_entry("reportingComponent", "")?;
        map.serialize_entry("reportingInstance", "")?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_the_recorded_event() {
        let event = K8sEvent {
            involved_object: InvolvedObject {
                namespace: "default".into(),
                name: "testvmi".into(),
                uid: "413e131b-408d-4ec6-9d2c-dc691e82cfda".into(),
            },
            event_type: K8sEventType::Warning,
            reason: "GuestAgentPingFailed".into(),
            message: "GuestAgentPing probe failed for VMI testvmi".into(),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            concat!(
                r#"{"metadata":{},"involvedObject":{"kind":"VirtualMachineInstance","namespace":"default","#,
                r#""name":"testvmi","uid":"413e131b-408d-4ec6-9d2c-dc691e82cfda","apiVersion":"kubevirt.io/v1"},"#,
                r#""reason":"GuestAgentPingFailed","message":"GuestAgentPing probe failed for VMI testvmi","#,
                r#""source":{},"firstTimestamp":null,"lastTimestamp":null,"type":"Warning","eventTime":null,"#,
                r#""reportingComponent":"","reportingInstance":""}"#
            )
        );
    }
}
