//! Where hook sidecars and plugins meet a boot (contract/cmd-server.md 5.5, contract/lifecycle.md 10.1): the domain before
//! each define, and the cloud-init data before its disk.

use serde::{Deserialize, Serialize};

use crate::hooks::{CloudInitAnswer, CloudInitQuestion, HookError, Hooks, InvocationContext, Plugins, Timings};
use crate::launcher::error::Error;
use crate::storage::{CloudInit, CloudInitSource, MetaData, NoCloudMetaData};

/// The extensions of one VM.
pub(crate) struct Extensions<'a> {
    hooks: &'a Hooks,
    plugins: Plugins,
    /// The VMI as virt-handler sent it.
    vmi: Vec<u8>,
}

impl<'a> Extensions<'a> {
    pub(crate) fn new(hooks: &'a Hooks, plugins: &[serde_json::Value], vmi: Vec<u8>) -> Result<Self, Error> {
        let plugins = Plugins::read(plugins, Timings::default())
            .map_err(|error| Error::other(format!("failed to deserialize plugins from options: {error}")))?;
        Ok(Extensions { hooks, plugins, vmi })
    }

    /// The domain as sidecars, then plugins, want it.
    pub(crate) async fn on_define_domain(&self, xml: String) -> Result<String, Error> {
        let hooked = async {
            let xml = self.hooks.on_define_domain(xml, &self.vmi).await?;
            self.plugins.apply(xml, &self.vmi, InvocationContext::Boot).await
        };
        hooked.await.map_err(|error: HookError| Error::other(error.to_string()))
    }

    /// The cloud-init data as the first sidecar that asks for it wants it.
    pub(crate) async fn pre_cloud_init_iso(&self, data: CloudInit) -> Result<CloudInit, Error> {
        let failed = |why: String| Error::other(format!("PreCloudInitIso hook failed: {why}"));
        let question = question(&data, self.vmi.clone()).map_err(|error| failed(error.to_string()))?;
        match self.hooks.pre_cloud_init_iso(question).await.map_err(|error| failed(error.to_string()))? {
            Some(answer) => changed(data, &answer)
                .map_err(|error| failed(format!("the answer of {} cannot be read: {error}", answer.socket.display()))),
            None => Ok(data),
        }
    }
}

/// The API's `cloudInitNoCloud`, which older sidecars know.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NoCloudSource {
    #[serde(skip_serializing_if = "String::is_empty")]
    user_data: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    network_data: String,
}

/// The original's own form of the data; its keys are Go's field names.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Data {
    data_source: String,
    no_cloud_meta_data: Option<NoCloudMetaData>,
    config_drive_meta_data: Option<MetaData>,
    user_data: String,
    network_data: String,
    devices_data: Option<serde_json::Value>,
    volume_name: String,
}

const NO_CLOUD: &str = "noCloud";
const CONFIG_DRIVE: &str = "configDrive";

/// JSON has no bytes: what is no text is shown as well as it can be.
fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// The bytes as they were, unless the sidecar changed the text that it was shown.
fn kept(before: Vec<u8>, after: String) -> Vec<u8> {
    if text(&before) == after { before } else { after.into_bytes() }
}

fn question(data: &CloudInit, vmi: Vec<u8>) -> Result<CloudInitQuestion, serde_json::Error> {
    let CloudInit { source, volume, meta_data, user_data, network_data } = data.clone();
    // Where the devices are is known only after the define.
    let meta_data = MetaData { devices: Vec::new(), ..meta_data };
    let (user_data, network_data) = (text(&user_data), text(&network_data));
    let old = NoCloudSource { user_data: user_data.clone(), network_data: network_data.clone() };
    let mut data = Data { user_data, network_data, volume_name: volume, ..Data::default() };
    match source {
        CloudInitSource::NoCloud => {
            data.data_source = NO_CLOUD.to_owned();
            data.no_cloud_meta_data = Some(meta_data.into());
        }
        CloudInitSource::ConfigDrive => {
            data.data_source = CONFIG_DRIVE.to_owned();
            data.config_drive_meta_data = Some(meta_data);
        }
    }
    Ok(CloudInitQuestion { no_cloud_source: serde_json::to_vec(&old)?, vmi, data: serde_json::to_vec(&data)? })
}

/// The whole data if the sidecar gave user data and metadata, else its user and network data with the metadata as before.
fn changed(before: CloudInit, answer: &CloudInitAnswer) -> Result<CloudInit, serde_json::Error> {
    let data: Data = match answer.data.is_empty() {
        true => Data::default(),
        false => serde_json::from_slice(&answer.data)?,
    };
    let Data { data_source, no_cloud_meta_data, config_drive_meta_data, user_data, network_data, volume_name, .. } =
        data;
    let whole = (!user_data.is_empty()).then(|| match (no_cloud_meta_data, config_drive_meta_data) {
        (None, None) => None,
        (Some(no_cloud), config_drive) if data_source != CONFIG_DRIVE || config_drive.is_none() => {
            Some((CloudInitSource::NoCloud, no_cloud.into()))
        }
        (_, Some(config_drive)) => Some((CloudInitSource::ConfigDrive, config_drive)),
        (Some(_), None) => None,
    });
    if let Some((source, meta_data)) = whole.flatten() {
        let volume = if volume_name.is_empty() { before.volume } else { volume_name };
        let (user_data, network_data) = (kept(before.user_data, user_data), kept(before.network_data, network_data));
        return Ok(CloudInit { source, volume, meta_data, user_data, network_data });
    }
    let NoCloudSource { user_data, network_data } = serde_json::from_slice(&answer.no_cloud_source)?;
    Ok(CloudInit {
        user_data: kept(before.user_data, user_data),
        network_data: kept(before.network_data, network_data),
        source: before.source,
        volume: before.volume,
        meta_data: before.meta_data,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn data(source: CloudInitSource) -> CloudInit {
        let meta_data = MetaData {
            instance_id: "i-1".into(),
            hostname: "vm".into(),
            uuid: if source == CloudInitSource::ConfigDrive { "u".into() } else { String::new() },
            ..MetaData::default()
        };
        CloudInit { source, volume: "seed".into(), meta_data, user_data: b"#!x\xff".to_vec(), network_data: Vec::new() }
    }

    fn answer(no_cloud_source: &Value, data: &Value) -> CloudInitAnswer {
        let bytes = |value: &Value| if value.is_null() { Vec::new() } else { value.to_string().into_bytes() };
        CloudInitAnswer { socket: "/s".into(), no_cloud_source: bytes(no_cloud_source), data: bytes(data) }
    }

    #[test]
    fn question_is_the_originals() {
        let asked = question(&data(CloudInitSource::NoCloud), b"{}".to_vec()).unwrap();
        assert_eq!(String::from_utf8(asked.no_cloud_source).unwrap(), "{\"userData\":\"#!x\u{fffd}\"}");
        assert_eq!(
            serde_json::from_slice::<Value>(&asked.data).unwrap(),
            json!({"DataSource": "noCloud", "NoCloudMetaData": {"instance-id": "i-1", "local-hostname": "vm"},
                "ConfigDriveMetaData": null, "UserData": "#!x\u{fffd}", "NetworkData": "", "DevicesData": null,
                "VolumeName": "seed"})
        );
    }

    #[test]
    fn unchanged_answer_changes_nothing() {
        for source in [CloudInitSource::NoCloud, CloudInitSource::ConfigDrive] {
            let asked = question(&data(source), Vec::new()).unwrap();
            let back =
                CloudInitAnswer { socket: "/s".into(), no_cloud_source: asked.no_cloud_source, data: asked.data };
            assert_eq!(changed(data(source), &back).unwrap(), data(source));
        }
    }

    #[test]
    fn whole_data_count_before_the_older_form() {
        let old = json!({"userData": "old", "networkData": "net"});
        let whole = json!({"DataSource": "noCloud", "UserData": "new", "NoCloudMetaData": {"instance-id": "i-2"}});
        let new = changed(data(CloudInitSource::NoCloud), &answer(&old, &whole)).unwrap();
        assert_eq!((new.user_data.as_slice(), new.meta_data.instance_id.as_str()), (&b"new"[..], "i-2"));
        for incomplete in [Value::Null, json!({"UserData": "new"}), json!({"NoCloudMetaData": {}})] {
            let new = changed(data(CloudInitSource::NoCloud), &answer(&old, &incomplete)).unwrap();
            assert_eq!(
                (new.user_data.as_slice(), new.network_data.as_slice()),
                (&b"old"[..], &b"net"[..]),
                "{incomplete}"
            );
            assert_eq!(new.meta_data.instance_id, "i-1");
        }
        assert!(changed(data(CloudInitSource::NoCloud), &answer(&Value::Null, &Value::Null)).is_err());
    }
}
