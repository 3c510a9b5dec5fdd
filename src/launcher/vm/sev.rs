//! AMD SEV: what the platform and the started guest prove, and the secret that the guest's owner answers with
//! (contract/cmd-server.md 4.2, 9.6).
#![allow(clippy::disallowed_methods, reason = "firmware of the image")]

use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Vm;
use crate::launcher::error::Error;
use crate::libvirt::Params;

/// The firmware of plain SEV and its variables; both have to be there.
const FIRMWARE: [&str; 2] = ["OVMF_CODE.cc.fd", "OVMF_VARS.fd"];

/// Questions about SEV.
#[derive(Clone)]
pub struct Sev {
    vm: Vm,
    /// The folder of firmware images.
    firmware: PathBuf,
}

/// `SEVPlatformInfo`.
#[derive(Serialize)]
struct PlatformInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pdh: &'a str,
    #[serde(rename = "certChain", skip_serializing_if = "str::is_empty")]
    cert_chain: &'a str,
}

/// `SEVMeasurementInfo`.
#[derive(Serialize)]
struct MeasurementInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    measurement: &'a str,
    #[serde(rename = "apiMajor", skip_serializing_if = "is_zero")]
    api_major: u64,
    #[serde(rename = "apiMinor", skip_serializing_if = "is_zero")]
    api_minor: u64,
    #[serde(rename = "buildID", skip_serializing_if = "is_zero")]
    build_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    policy: u64,
    #[serde(rename = "loaderSHA", skip_serializing_if = "str::is_empty")]
    loader_sha: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Sev {
    /// Questions about `vm` and the firmware images in a folder.
    pub fn new(vm: Vm, firmware: PathBuf) -> Self {
        Sev { vm, firmware }
    }

    /// GetSEVInfo, as JSON.
    pub async fn info(&self) -> Result<String, Error> {
        platform_info(&self.vm.control.sev_info().await?)
    }

    /// GetLaunchMeasurement, as JSON.
    pub async fn launch_measurement(&self) -> Result<String, Error> {
        let measured = self.vm.control.launch_security_info().await?;
        measurement_info(&measured, &self.loader_digest().await?)
    }

    /// SHA-256 of the firmware that plain SEV guests boot by, in hexadecimal.
    async fn loader_digest(&self) -> Result<String, Error> {
        let complete = FIRMWARE.iter().all(|file| self.firmware.join(file).is_file());
        let [code, _variables] = FIRMWARE;
        // Without firmware there is no path; the message is the original's.
        let path = if complete { self.firmware.join(code) } else { PathBuf::new() };
        let image = tokio::fs::read(&path).await.map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => error.to_string(),
            };
            Error::storage(format!("open {}: {reason}", path.display()))
        })?;
        Ok(Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// InjectLaunchSecret.
pub async fn inject_secret(vm: &Vm, header: &str, secret: &str) -> Result<(), Error> {
    Ok(vm.control.inject_launch_secret(header, secret).await?)
}

fn platform_info(params: &Params) -> Result<String, Error> {
    let text = |name: &str| params.text(name).unwrap_or_default();
    as_json(&PlatformInfo { pdh: text("pdh"), cert_chain: text("cert-chain") })
}

fn measurement_info(params: &Params, loader_sha: &str) -> Result<String, Error> {
    let number = |name: &str| params.unsigned(name).unwrap_or(0);
    as_json(&MeasurementInfo {
        measurement: params.text("sev-measurement").unwrap_or_default(),
        api_major: number("sev-api-major"),
        api_minor: number("sev-api-minor"),
        build_id: number("sev-build-id"),
        policy: number("sev-policy"),
        loader_sha,
    })
}

fn as_json(document: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(document).map_err(|error| Error::other(format!("cannot be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::TypedValue;

    fn params<const N: usize>(values: [(&str, TypedValue); N]) -> Params {
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn documents_have_the_documented_keys_and_leave_out_what_is_empty() {
        let text = |text: &str| TypedValue::Text(text.to_owned());
        let info = params([("pdh", text("AAA")), ("cert-chain", text("BBB")), ("cbitpos", TypedValue::Unsigned(47))]);
        assert_eq!(platform_info(&info).unwrap(), r#"{"pdh":"AAA","certChain":"BBB"}"#);
        assert_eq!(platform_info(&Params::default()).unwrap(), "{}");
        let measured = params([
            ("sev-measurement", text("m")),
            ("sev-api-major", TypedValue::Unsigned(1)),
            ("sev-api-minor", TypedValue::Unsigned(0)),
            ("sev-build-id", TypedValue::Unsigned(10)),
            ("sev-policy", TypedValue::Unsigned(3)),
        ]);
        assert_eq!(
            measurement_info(&measured, "ab").unwrap(),
            r#"{"measurement":"m","apiMajor":1,"buildID":10,"policy":3,"loaderSHA":"ab"}"#
        );
    }
}
