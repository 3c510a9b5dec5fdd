//! The options of MigrateVirtualMachine (contract/migration.md 4.2): JSON with Go's names.

use serde::{Deserialize, Serialize};

use crate::vmi::{ParseError, Quantity, parse_json, strict};

/// QEMU's own limit, in milliseconds, unless another one is set.
pub const QEMU_DEFAULT_DOWNTIME_MS: u64 = 300;
/// The longest downtime that QEMU takes, in milliseconds.
pub const QEMU_MAX_DOWNTIME_MS: u64 = 2_000_000;
/// `MaxDowntimeMs` of a cluster that sets none.
const DEFAULT_MAX_DOWNTIME_MS: u64 = 900;

/// What virt-handler asks of one migration. Unknown keys are ignored; a missing one is Go's zero value unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase", remote = "Self", expecting = "a map")]
pub struct MigrationOptions {
    /// Bytes per second; 0 is without limit.
    pub bandwidth: Quantity,
    /// Seconds without progress after which the migration is cancelled; 0 is never.
    pub progress_timeout: u64,
    /// Seconds for each started 10⁹ bytes; 0 is without limit.
    #[serde(rename = "CompletionTimeoutPerGiB")]
    pub completion_timeout_per_gib: u64,
    /// As it was sent; [`MigrationOptions::downtime_ceiling_ms`] is what holds.
    pub max_downtime_ms: u64,
    pub unsafe_migration: bool,
    pub allow_auto_converge: bool,
    pub allow_post_copy: bool,
    pub parallel_migration_threads: Option<u32>,
    /// As it was sent; [`MigrationOptions::allows_disruption`] is what holds.
    pub allow_workload_disruption: Option<bool>,
    pub stall_detector_options: Option<StallDetectorOptions>,
    pub compression: Option<String>,
    pub downtime_tuning: Option<DowntimeTuning>,
}
strict::only_maps!(MigrationOptions);

/// `StallDetectorOptions`; a missing key has virt-handler's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase", remote = "Self", expecting = "a map")]
pub struct StallDetectorOptions {
    /// Per cent.
    pub stall_margin: u64,
    /// Seconds.
    pub stall_progress_timeout: u64,
    /// Seconds.
    pub switchover_timeout: u64,
    /// Weight of a new sample of the bandwidth, 0 to 1.
    pub ewma_alpha: Quantity,
    /// How often the greatest downtime an estimate may be.
    pub precopy_possible_factor: Quantity,
    pub patience_window_decay_factor: Quantity,
    pub search_local_minima: bool,
    pub completion_timeout_factor: Quantity,
}
strict::only_maps!(StallDetectorOptions);

/// `DowntimeTuning`; every key is optional (contract/migration.md 7.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", remote = "Self", expecting = "a map")]
pub struct DowntimeTuning {
    pub initial_ms: Option<i64>,
    pub steps: Option<i64>,
    pub start_after_iteration: Option<i64>,
    pub cooldown_seconds: Option<i64>,
}
strict::only_maps!(DowntimeTuning);

impl Default for StallDetectorOptions {
    fn default() -> Self {
        StallDetectorOptions {
            stall_margin: 4,
            stall_progress_timeout: 40,
            switchover_timeout: 60,
            ewma_alpha: Quantity::from_milli(400),
            precopy_possible_factor: Quantity::from_milli(1500),
            patience_window_decay_factor: Quantity::from_milli(500),
            search_local_minima: true,
            completion_timeout_factor: Quantity::from_milli(2000),
        }
    }
}

impl MigrationOptions {
    /// Reads MigrationRequest.options. An error names the key, such as `StallDetectorOptions.EwmaAlpha`, and what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        parse_json(json)
    }

    /// The longest downtime that the user accepts, in milliseconds: at least 1, at most what QEMU takes. With 0, which also
    /// stands for a virt-handler that does not know the key, no migration would ever end; so it means the default, 900.
    pub fn downtime_ceiling_ms(&self) -> u64 {
        match self.max_downtime_ms {
            0 => DEFAULT_MAX_DOWNTIME_MS,
            asked => asked.min(QEMU_MAX_DOWNTIME_MS),
        }
    }

    /// Whether the guest may be paused, or run on before its memory is there, so that the migration ends. A virt-handler
    /// that does not know `AllowWorkloadDisruption` means `AllowPostCopy`.
    pub fn allows_disruption(&self) -> bool {
        self.allow_workload_disruption.unwrap_or(self.allow_post_copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> MigrationOptions {
        MigrationOptions::parse(json.as_bytes()).unwrap()
    }

    fn error(json: &str) -> String {
        MigrationOptions::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn options_of_a_default_cluster_are_read() {
        let options = parse(
            r#"{"Bandwidth":"0","ProgressTimeout":150,"CompletionTimeoutPerGiB":150,"MaxDowntimeMs":900,
            "UnsafeMigration":false,"AllowAutoConverge":true,"AllowPostCopy":false,"ParallelMigrationThreads":8,
            "AllowWorkloadDisruption":false,"StallDetectorOptions":null,"Compression":null,"DowntimeTuning":null}"#,
        );
        let expected = MigrationOptions {
            progress_timeout: 150,
            completion_timeout_per_gib: 150,
            max_downtime_ms: 900,
            allow_auto_converge: true,
            parallel_migration_threads: Some(8),
            allow_workload_disruption: Some(false),
            ..MigrationOptions::default()
        };
        assert_eq!(options, expected);
        assert!(options.bandwidth.is_zero());
    }

    #[test]
    fn options_with_everything_are_read() {
        let options = parse(
            r#"{"Bandwidth":"64Mi","UnsafeMigration":true,"AllowPostCopy":true,"Compression":"zstd","Later":{"a":[1]},
            "StallDetectorOptions":{"StallMargin":5,"StallProgressTimeout":41,"SwitchoverTimeout":61,"EwmaAlpha":"0.3",
                "PrecopyPossibleFactor":"1600m","PatienceWindowDecayFactor":"250m","SearchLocalMinima":false,
                "CompletionTimeoutFactor":"3","Later":1},
            "DowntimeTuning":{"initialMs":10,"steps":3,"startAfterIteration":1,"cooldownSeconds":2}}"#,
        );
        assert_eq!(options.bandwidth.value(), 64 << 20);
        assert!(options.unsafe_migration && options.allow_post_copy);
        assert_eq!(options.compression.as_deref(), Some("zstd"));
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        let stall = StallDetectorOptions {
            stall_margin: 5,
            stall_progress_timeout: 41,
            switchover_timeout: 61,
            ewma_alpha: quantity("300m"),
            precopy_possible_factor: quantity("1.6"),
            patience_window_decay_factor: quantity("0.25"),
            search_local_minima: false,
            completion_timeout_factor: quantity("3"),
        };
        assert_eq!(options.stall_detector_options, Some(stall));
        let tuning = DowntimeTuning {
            initial_ms: Some(10),
            steps: Some(3),
            start_after_iteration: Some(1),
            cooldown_seconds: Some(2),
        };
        assert_eq!(options.downtime_tuning, Some(tuning));
    }

    #[test]
    fn options_without_keys_are_those_of_an_older_virt_handler() {
        let options = parse("{}");
        assert_eq!(options, MigrationOptions::default());
        assert_eq!((options.downtime_ceiling_ms(), options.allows_disruption()), (900, false));
        assert!(parse(r#"{"AllowPostCopy":true}"#).allows_disruption());
        assert!(!parse(r#"{"AllowPostCopy":true,"AllowWorkloadDisruption":false}"#).allows_disruption());
        assert!(parse(r#"{"AllowPostCopy":false,"AllowWorkloadDisruption":true}"#).allows_disruption());
        assert_eq!(
            parse(r#"{"StallDetectorOptions":{}}"#).stall_detector_options,
            Some(StallDetectorOptions::default())
        );
        assert_eq!(parse(r#"{"DowntimeTuning":{}}"#).downtime_tuning, Some(DowntimeTuning::default()));
        // `null` is Go's zero value.
        assert_eq!(parse(r#"{"MaxDowntimeMs":null,"Bandwidth":null}"#), MigrationOptions::default());
    }

    #[test]
    fn downtime_beyond_what_qemu_takes_is_cut() {
        assert_eq!(parse(r#"{"MaxDowntimeMs":1}"#).downtime_ceiling_ms(), 1);
        assert_eq!(parse(r#"{"MaxDowntimeMs":2000001}"#).downtime_ceiling_ms(), 2_000_000);
    }

    #[test]
    fn wrong_options_are_named() {
        for (json, start) in [
            (r#"{"Bandwidth":"lots"}"#, "Bandwidth: \"lots\": "),
            (r#"{"ProgressTimeout":"150"}"#, "ProgressTimeout: invalid type: string"),
            (r#"{"CompletionTimeoutPerGiB":-1}"#, "CompletionTimeoutPerGiB: invalid value: integer `-1`"),
            (r#"{"ParallelMigrationThreads":1.5}"#, "ParallelMigrationThreads: invalid type: floating point"),
            (
                r#"{"StallDetectorOptions":{"EwmaAlpha":true}}"#,
                "StallDetectorOptions.EwmaAlpha: true is not a quantity",
            ),
            (r#"{"DowntimeTuning":{"steps":"7"}}"#, "DowntimeTuning.steps: invalid type: string"),
            (r#"{"DowntimeTuning":[1]}"#, "DowntimeTuning: invalid type: sequence, expected a map"),
            ("[]", "not a document: "),
            ("", "not a document: "),
        ] {
            let error = error(json);
            assert!(error.starts_with(start), "{json}: {error}");
        }
    }

    #[test]
    fn options_that_were_saved_are_read_back() {
        let options = parse(r#"{"Bandwidth":"1Gi","MaxDowntimeMs":5,"StallDetectorOptions":{},"DowntimeTuning":{}}"#);
        assert_eq!(MigrationOptions::parse(&serde_json::to_vec(&options).unwrap()).unwrap(), options);
    }
}
