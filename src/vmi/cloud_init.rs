//! Which cloud-init data a VMI gives its guest (contract/lifecycle.md 9.5). Pure: secrets are read by the caller.

use base64::Engine;

use super::{CloudInitSource, LocalObjectReference, VirtualMachineInstanceSpec, Volume};

/// Keys of user data in a secret, in the order in which they are tried.
const USER_DATA: [&str; 2] = ["userdata", "userData"];
/// Keys of network data in a secret.
const NETWORK_DATA: [&str; 2] = ["networkdata", "networkData"];

/// All of these keys.
pub const CLOUD_INIT_KEYS: [&str; 4] = [USER_DATA[0], USER_DATA[1], NETWORK_DATA[0], NETWORK_DATA[1]];

/// What a VMI itself may carry of either, in bytes, as the API server has it; secrets may hold more.
const INLINE_LIMIT: usize = 2048;

/// How the data is laid out on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudInitKind {
    /// `cloudInitNoCloud`.
    NoCloud,
    /// `cloudInitConfigDrive`.
    ConfigDrive,
}

/// User and network data of a volume, decoded; at least one of them is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInitData {
    /// The layout.
    pub kind: CloudInitKind,
    /// The volume's name.
    pub volume: String,
    /// User data: text, or an archive that cloud-init understands.
    pub user_data: Vec<u8>,
    /// Network data.
    pub network_data: Vec<u8>,
}

impl VirtualMachineInstanceSpec {
    /// The data of the first cloud-init volume; the others do not count. `secret` is asked for a key of a volume's
    /// secret. What a secret holds beats what the VMI says, and text beats base64. An error names the volume and why
    /// it has no data.
    pub fn cloud_init_data(
        &self,
        secret: &dyn Fn(&str, &str) -> Option<Vec<u8>>,
    ) -> Result<Option<CloudInitData>, String> {
        let Some((kind, volume, source)) = self.volumes.iter().find_map(source_of) else { return Ok(None) };
        let name = &volume.name;
        let from_secret = |reference: &Option<LocalObjectReference>, keys: [&str; 2]| {
            reference.as_ref().map(|_| keys.into_iter().find_map(|key| secret(name, key)))
        };
        let user_secret = from_secret(&source.secret_ref, USER_DATA);
        let network_secret = from_secret(&source.network_data_secret_ref, NETWORK_DATA);
        if user_secret == Some(None) && network_secret == Some(None) {
            return Err(format!("no cloud-init data-source found at volume: {name}"));
        }
        let pick = |secret: Option<Option<Vec<u8>>>, raw: &str, encoded: &str, field: &str| match secret
            .flatten()
            .filter(|data| !data.is_empty())
        {
            Some(data) => Ok(data),
            None if !raw.is_empty() => Ok(raw.as_bytes().to_vec()),
            None => decoded(encoded).map_err(|error| format!("volume {name}: {field}: {error}")),
        };
        let user_data = pick(user_secret, &source.user_data, &source.user_data_base64, "userDataBase64")?;
        let network_data =
            pick(network_secret, &source.network_data, &source.network_data_base64, "networkDataBase64")?;
        if user_data.is_empty() && network_data.is_empty() {
            return Err(format!("volume {name} has neither user data nor network data"));
        }
        Ok(Some(CloudInitData { kind, volume: name.clone(), user_data, network_data }))
    }

    /// Fails if the VMI itself carries more cloud-init data than the API server lets through. In a cluster nothing of
    /// the kind arrives; a VMI from a file has not passed them.
    pub fn check_cloud_init_size(&self) -> Result<(), String> {
        let Some((_, volume, source)) = self.volumes.iter().find_map(source_of) else { return Ok(()) };
        let fields = [
            ("userData", &source.user_data, &source.user_data_base64, "secretRef"),
            ("networkData", &source.network_data, &source.network_data_base64, "networkDataSecretRef"),
        ];
        for (field, raw, encoded, remedy) in fields {
            // Bad base64 is reported by those who need the data.
            let size = if raw.is_empty() { decoded(encoded).unwrap_or_default().len() } else { raw.len() };
            if size > INLINE_LIMIT {
                return Err(format!(
                    "volume {}: {field} exceeds {INLINE_LIMIT} byte limit with {size} bytes; {remedy} can hold more",
                    volume.name
                ));
            }
        }
        Ok(())
    }
}

fn source_of(volume: &Volume) -> Option<(CloudInitKind, &Volume, &CloudInitSource)> {
    let no_cloud = volume.cloud_init_no_cloud.as_ref().map(|source| (CloudInitKind::NoCloud, volume, source));
    no_cloud
        .or_else(|| volume.cloud_init_config_drive.as_ref().map(|source| (CloudInitKind::ConfigDrive, volume, source)))
}

/// Line breaks are not in the alphabet, and `base64` of a shell makes them every 76 characters.
fn decoded(encoded: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let one_line: String = encoded.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    base64::engine::general_purpose::STANDARD.decode(one_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(volumes: &str, secret: &dyn Fn(&str, &str) -> Option<Vec<u8>>) -> Result<Option<CloudInitData>, String> {
        let text = format!(r#"{{"spec":{{"domain":{{}},"volumes":[{volumes}]}}}}"#);
        super::super::parse(text.as_bytes()).unwrap().spec.cloud_init_data(secret)
    }

    fn nothing(_: &str, _: &str) -> Option<Vec<u8>> {
        None
    }

    #[test]
    fn first_volume_counts_and_text_beats_base64() {
        let found = data(
            r#"{"name":"r","emptyDisk":{}},{"name":"a","cloudInitConfigDrive":{"userData":"x","userDataBase64":"?"}},
               {"name":"b","cloudInitNoCloud":{}}"#,
            &nothing,
        );
        let found = found.unwrap().unwrap();
        assert_eq!((found.kind, found.volume.as_str()), (CloudInitKind::ConfigDrive, "a"));
        assert_eq!((found.user_data.as_slice(), found.network_data.as_slice()), (b"x".as_slice(), b"".as_slice()));
        assert_eq!(data(r#"{"name":"r","emptyDisk":{}}"#, &nothing), Ok(None));
    }

    #[test]
    fn base64_may_have_line_breaks() {
        let found = data(r#"{"name":"a","cloudInitNoCloud":{"networkDataBase64":"aGVs\r\nbG8=\n"}}"#, &nothing);
        assert_eq!(found.unwrap().unwrap().network_data, b"hello");
    }

    #[test]
    fn secrets_beat_the_vmi_and_a_missing_key_falls_back_to_it() {
        let volume = r#"{"name":"a","cloudInitNoCloud":{"secretRef":{"name":"s"},"userData":"inline"}}"#;
        let secret = |volume: &str, key: &str| (volume == "a" && key == "userData").then(|| b"secret".to_vec());
        assert_eq!(data(volume, &secret).unwrap().unwrap().user_data, b"secret");
        assert_eq!(data(volume, &nothing).unwrap().unwrap().user_data, b"inline");
        let both = r#"{"name":"a","cloudInitNoCloud":{"secretRef":{"name":"s"},"networkDataSecretRef":{"name":"s"},
                      "userData":"inline"}}"#;
        assert!(data(both, &nothing).unwrap_err().contains("found at volume: a"));
    }

    #[test]
    fn errors_name_volume_and_field() {
        let error = data(r#"{"name":"seed","cloudInitNoCloud":{"userDataBase64":"?"}}"#, &nothing).unwrap_err();
        assert!(error.contains("volume seed") && error.contains("userDataBase64"), "{error}");
        let error = data(r#"{"name":"seed","cloudInitNoCloud":{}}"#, &nothing).unwrap_err();
        assert!(error.contains("neither user data nor network data"), "{error}");
    }

    #[test]
    fn compressed_data_stays_as_it_is() {
        let found = data(r#"{"name":"a","cloudInitNoCloud":{"userDataBase64":"H4sIAP8="}}"#, &nothing);
        assert_eq!(found.unwrap().unwrap().user_data, [0x1f, 0x8b, 0x08, 0x00, 0xff]);
    }

    #[test]
    fn vmi_carries_two_kib_at_most() {
        let check = |source: &str| {
            let text = format!(
                r#"{{"spec":{{"domain":{{}},"volumes":[{{"name":"seed","cloudInitNoCloud":{{{source}}}}}]}}}}"#
            );
            super::super::parse(text.as_bytes()).unwrap().spec.check_cloud_init_size()
        };
        let encoded = |size| base64::engine::general_purpose::STANDARD.encode("x".repeat(size));
        for (field, data) in [("userData", "x".repeat(2048)), ("networkDataBase64", encoded(2048))] {
            assert_eq!(check(&format!(r#""{field}":"{data}""#)), Ok(()), "{field}");
        }
        for (field, data) in [("networkData", "x".repeat(2049)), ("userDataBase64", encoded(2049))] {
            let why = check(&format!(r#""{field}":"{data}""#)).unwrap_err();
            assert!(why.starts_with("volume seed: ") && why.contains(&field[..8]) && why.contains("2049"), "{why}");
        }
    }
}
