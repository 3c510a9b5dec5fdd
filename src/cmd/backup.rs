//! `BackupVirtualMachine` and `RedefineCheckpoint`, decoded and checked (contract/cmd-server.md 7.3, 7.5).

use serde::Deserialize;

use super::failure::response;
use super::{Action, BackupCommand, BackupStart, Checkpoint, Driver, ExportServer, Failure, decode};
use crate::domain::Time;
use crate::proto::cmd_v1::{self, RedefineCheckpointResponse, Response};
use crate::vmi::VirtualMachineInstance;
use crate::vmi::strict::reads_only_maps;

/// `backup/v1alpha1` BackupOptions.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct BackupOptions {
    backup_name: String,
    cmd: String,
    mode: String,
    backup_start_time: Option<Time>,
    incremental: String,
    target_path: String,
    skip_quiesce: bool,
    export_server_addr: String,
    export_server_name: String,
    backup_key: String,
    backup_cert: String,
    ca_cert: String,
}

reads_only_maps!(BackupOptions, CheckpointInfo);

/// `BackupVirtualMachine`. libvirt's errors have their raw form here.
pub(super) async fn backup(driver: &dyn Driver, request: cmd_v1::BackupRequest) -> Response {
    match backup_action(request) {
        Ok(action) => response(driver.perform(action).await.map_err(|failure| Failure::text(failure.to_string()))),
        Err(failure) => response(Err(failure)),
    }
}

fn backup_action(request: cmd_v1::BackupRequest) -> Result<Action, Failure> {
    let vmi = decode::vmi("BackupVirtualMachine", request.vmi)?;
    if !tracks_changes(&vmi) {
        return Err(Failure::text("Backup failed ChangedBlockTracking is not enabled"));
    }
    if request.options.is_empty() {
        return Err(Failure::text("backup options object not present in command server request"));
    }
    let options: Option<BackupOptions> = serde_json::from_slice(&request.options).map_err(|error| {
        Failure::text(format!("no valid backup options object present in command server request: {error}"))
    })?;
    let command = command(options.unwrap_or_default())?;
    Ok(Action::Backup(Box::new(super::BackupRequest { vmi, command })))
}

fn command(options: BackupOptions) -> Result<BackupCommand, Failure> {
    let refuse = |why: &str| Err(Failure::text(why));
    let BackupOptions { backup_name: name, backup_start_time: started, .. } = options;
    match options.cmd.as_str() {
        "Start" => {
            let pull = match options.mode.as_str() {
                "Push" => false,
                "Pull" => true,
                _ => return refuse("unknown backup mode: only Push and Pull are supported"),
            };
            if options.target_path.is_empty() {
                return refuse("backup targetPath wasn't provided");
            }
            if name.is_empty() {
                return refuse("backup name wasn't provided");
            }
            let Some(started) = started else { return refuse("backup start time wasn't provided") };
            Ok(BackupCommand::Start(BackupStart {
                name,
                started,
                pull,
                incremental: (!options.incremental.is_empty()).then_some(options.incremental),
                target_path: options.target_path.into(),
                skip_quiesce: options.skip_quiesce,
            }))
        }
        "Abort" => Ok(BackupCommand::Abort { name, started }),
        "Export" => {
            if options.mode != "Pull" {
                return refuse("can only export Pull mode backup");
            }
            for (value, what) in [
                (&options.export_server_addr, "backup export server address wasn't provided"),
                (&options.export_server_name, "backup export server name wasn't provided"),
                (&name, "backup name wasn't provided"),
            ] {
                if value.is_empty() {
                    return refuse(what);
                }
            }
            let Some(started) = started else { return refuse("backup start time wasn't provided") };
            for (value, what) in [
                (&options.backup_cert, "backup certificate wasn't provided"),
                (&options.backup_key, "backup key wasn't provided"),
                (&options.ca_cert, "backup export server CA cert wasn't provided"),
            ] {
                if value.is_empty() {
                    return refuse(what);
                }
            }
            let to = ExportServer {
                address: options.export_server_addr,
                name: options.export_server_name,
                key: options.backup_key,
                certificate: options.backup_cert,
                authority: options.ca_cert,
            };
            Ok(BackupCommand::Export { name, started, to })
        }
        _ => refuse("cmd unsupported, backup command only supports start or abort"),
    }
}

/// What RedefineCheckpoint carries.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
struct CheckpointInfo {
    name: String,
    creation_time: Option<Time>,
}

/// `RedefineCheckpoint`.
pub(super) async fn redefine_checkpoint(
    driver: &dyn Driver,
    request: cmd_v1::RedefineCheckpointRequest,
) -> RedefineCheckpointResponse {
    let outcome = match checkpoint(request) {
        Ok(checkpoint) => driver.perform(Action::RedefineCheckpoint(checkpoint)).await,
        Err(failure) => Err(failure),
    };
    let checkpoint_invalid = matches!(&outcome, Err(Failure::InvalidCheckpoint(_)));
    let outcome = outcome.map_err(|failure| Failure::text(failure.to_string()));
    RedefineCheckpointResponse { response: Some(response(outcome)), checkpoint_invalid }
}

fn checkpoint(request: cmd_v1::RedefineCheckpointRequest) -> Result<Checkpoint, Failure> {
    let vmi = decode::vmi("RedefineCheckpoint", request.vmi)?;
    if !tracks_changes(&vmi) {
        return Err(Failure::text("Redefine checkpoint failed: ChangedBlockTracking is not enabled"));
    }
    let info: Option<CheckpointInfo> = serde_json::from_slice(&request.checkpoint)
        .map_err(|error| Failure::text(format!("Redefine checkpoint failed: invalid checkpoint info: {error}")))?;
    let CheckpointInfo { name, creation_time } = info.unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::text("Redefine checkpoint failed: invalid checkpoint info: no name"));
    }
    Ok(Checkpoint { name, created: creation_time })
}

fn tracks_changes(vmi: &VirtualMachineInstance) -> bool {
    vmi.status.changed_block_tracking.as_ref().is_some_and(|tracking| tracking.state == "Enabled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(state: &str, options: &str) -> cmd_v1::BackupRequest {
        let vmi = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns"}},"spec":{{"domain":{{"devices":{{}}}}}},
                "status":{{"changedBlockTracking":{{"state":"{state}"}}}}}}"#
        );
        cmd_v1::BackupRequest { vmi: Some(cmd_v1::Vmi { vmi_json: vmi.into() }), options: options.into() }
    }

    fn said(state: &str, options: &str) -> String {
        match backup_action(request(state, options)) {
            Ok(action) => format!("{action:?}"),
            Err(failure) => failure.message(),
        }
    }

    #[test]
    fn options_are_checked_in_the_documented_order() {
        const TIME: &str = r#""backupStartTime":"2026-01-02T03:04:05Z""#;
        let export = r#""cmd":"Export","mode":"Pull","exportServerAddr":"a","exportServerName":"b","backupName":"c""#;
        for (options, expected) in [
            ("", "backup options object not present in command server request"),
            ("null", "cmd unsupported, backup command only supports start or abort"),
            (r#"{"cmd":"Stop"}"#, "cmd unsupported, backup command only supports start or abort"),
            (r#"{"cmd":"Start","mode":"push"}"#, "unknown backup mode: only Push and Pull are supported"),
            (r#"{"cmd":"Start","mode":"Push"}"#, "backup targetPath wasn't provided"),
            (
                r#"{"cmd":"Start","mode":"Push","targetPath":"/b","backupName":"n"}"#,
                "backup start time wasn't provided",
            ),
            (r#"{"cmd":"Export","mode":"Push"}"#, "can only export Pull mode backup"),
            (r#"{"cmd":"Export","mode":"Pull"}"#, "backup export server address wasn't provided"),
            (&format!("{{{export}}}"), "backup start time wasn't provided"),
            (&format!("{{{export},{TIME}}}"), "backup certificate wasn't provided"),
            (&format!(r#"{{{export},{TIME},"backupCert":"x"}}"#), "backup key wasn't provided"),
        ] {
            assert_eq!(said("Enabled", options), expected, "{options}");
        }
        assert!(said("Enabled", "7").starts_with("no valid backup options object present in command server request: "));
        assert_eq!(said("Initializing", ""), "Backup failed ChangedBlockTracking is not enabled");
        let good =
            format!(r#"{{"cmd":"Start","mode":"Pull","targetPath":"/b","backupName":"n",{TIME},"incremental":"i"}}"#);
        let started = said("Enabled", &good);
        assert!(started.contains("pull: true") && started.contains(r#"incremental: Some("i")"#), "{started}");
        assert!(said("Enabled", r#"{"cmd":"Abort"}"#).contains("Abort"));
        let good = format!(r#"{{{export},{TIME},"backupCert":"x","backupKey":"secret"}}"#);
        assert_eq!(said("Enabled", &good), "backup export server CA cert wasn't provided");
        let good = format!(r#"{{{export},{TIME},"backupCert":"x","backupKey":"secret","caCert":"y"}}"#);
        let export = said("Enabled", &good);
        assert!(export.contains(r#"address: "a", name: "b""#) && !export.contains("secret"), "{export}");
    }
}
