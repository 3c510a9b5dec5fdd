//! How far a migration has come, for those who watch it.

use crate::domain::JobSample;
use crate::domain::stats::MigrationStats;

/// `MigrateDomainJobInfo` of GetDomainStats (contract/migration.md 4.6).
pub fn published(job: &JobSample) -> MigrationStats {
    MigrationStats {
        data_total: job.data_total,
        data_processed: job.data_processed,
        memory_bps: job.memory_bps,
        data_remaining: job.data_remaining,
        mem_dirty_rate: job.dirty_bps(),
    }
}

fn mebibytes(bytes: Option<u64>) -> u64 {
    bytes.unwrap_or_default() / (1024 * 1024)
}

fn megabits(bytes: Option<u64>) -> u64 {
    bytes.unwrap_or_default().saturating_mul(8) / 1_000_000
}

/// The line of the log with a migration's progress (contract/migration.md 7.1); `uid` is the migration's.
pub fn info_line(uid: &str, job: &JobSample) -> String {
    let number = Option::<u64>::unwrap_or_default;
    let downtime = match job.downtime_net.filter(|net| *net > 0) {
        Some(net) => format!("Downtime:{}ms DowntimeNet:{net}ms", number(job.downtime)),
        None => format!("ExpectedDowntime:{}ms", number(job.downtime)),
    };
    let ratio = match (job.memory_normal_bytes, job.data_processed) {
        (Some(normal), Some(processed)) if processed > 0 && normal > processed => {
            format!(" CompressionRatio:{:.2}x", normal as f64 / processed as f64)
        }
        (Some(_) | None, Some(_) | None) => String::new(),
    };
    format!(
        "Migration info for {uid}: TimeElapsed:{}ms DataProcessed:{}MiB DataRemaining:{}MiB DataTotal:{}MiB \
         MemoryProcessed:{}MiB MemoryRemaining:{}MiB MemoryTotal:{}MiB MemoryBandwidth:{}Mbps DirtyRate:{}Mbps \
         Iteration:{} PostcopyRequests:{} ConstantPages:{} NormalPages:{} NormalData:{}MiB {downtime} DiskMbps:{}{ratio}",
        number(job.time_elapsed),
        mebibytes(job.data_processed),
        mebibytes(job.data_remaining),
        mebibytes(job.data_total),
        mebibytes(job.memory_processed),
        mebibytes(job.memory_remaining),
        mebibytes(job.memory_total),
        megabits(job.memory_bps),
        megabits(job.dirty_bps()),
        number(job.memory_iteration),
        number(job.memory_postcopy_requests),
        number(job.memory_constant),
        number(job.memory_normal),
        mebibytes(job.memory_normal_bytes),
        megabits(job.disk_bps),
    )
}

/// The figures that show why a migration does not end, for people. What is not known is left out.
pub fn figures(job: &JobSample) -> String {
    let of = job.data_total.map_or(String::new(), |total| format!(" of {}", mebibytes(Some(total))));
    let remaining = job.data_remaining.map(|left| format!("{}{of} MiB remain", mebibytes(Some(left))));
    let memory = job.memory_bps.map(|speed| format!("memory at {} MiB/s", mebibytes(Some(speed))));
    let disks =
        job.disk_bps.filter(|speed| *speed > 0).map(|speed| format!("disks at {} MiB/s", mebibytes(Some(speed))));
    let dirty = job.dirty_bps().map(|rate| format!("the guest writes {} MiB/s", mebibytes(Some(rate))));
    let iteration = job.memory_iteration.map(|iteration| format!("iteration {iteration}"));
    let known: Vec<String> = [remaining, memory, disks, dirty, iteration].into_iter().flatten().collect();
    if known.is_empty() { "libvirt reports no figures".into() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn job() -> JobSample {
        JobSample {
            time_elapsed: Some(4012),
            data_total: Some(4096 * MIB),
            data_processed: Some(1000 * MIB),
            data_remaining: Some(3000 * MIB + 5),
            memory_total: Some(4095 * MIB),
            memory_processed: Some(999 * MIB),
            memory_remaining: Some(2999 * MIB),
            memory_bps: Some(125_000_000),
            memory_constant: Some(11),
            memory_normal: Some(22),
            memory_normal_bytes: Some(33 * MIB),
            memory_page_size: Some(4096),
            memory_dirty_rate: Some(1000),
            memory_iteration: Some(3),
            memory_postcopy_requests: Some(1),
            disk_bps: Some(1_000_000),
            downtime: Some(300),
            ..JobSample::default()
        }
    }

    #[test]
    fn published_figures_are_those_of_the_job() {
        let expected = MigrationStats {
            data_total: Some(4096 * MIB),
            data_processed: Some(1000 * MIB),
            memory_bps: Some(125_000_000),
            data_remaining: Some(3000 * MIB + 5),
            mem_dirty_rate: Some(4_096_000),
        };
        assert_eq!(published(&job()), expected);
        assert_eq!(published(&JobSample::default()), MigrationStats::default());
    }

    #[test]
    fn info_line_is_the_originals() {
        let line = "Migration info for u: TimeElapsed:4012ms DataProcessed:1000MiB DataRemaining:3000MiB DataTotal:4096MiB \
                    MemoryProcessed:999MiB MemoryRemaining:2999MiB MemoryTotal:4095MiB MemoryBandwidth:1000Mbps \
                    DirtyRate:32Mbps Iteration:3 PostcopyRequests:1 ConstantPages:11 NormalPages:22 NormalData:33MiB \
                    ExpectedDowntime:300ms DiskMbps:8";
        assert_eq!(info_line("u", &job()), line);
        let through = JobSample { downtime_net: Some(250), ..job() };
        let line = line.replace("ExpectedDowntime:300ms", "Downtime:300ms DowntimeNet:250ms");
        assert_eq!(info_line("u", &through), line);
        let compressed = JobSample { memory_normal_bytes: Some(2500 * MIB), ..job() };
        assert!(info_line("u", &compressed).ends_with("DiskMbps:8 CompressionRatio:2.50x"));
        let nothing = info_line("u", &JobSample::default());
        assert!(
            nothing.contains("TimeElapsed:0ms") && nothing.ends_with("ExpectedDowntime:0ms DiskMbps:0"),
            "{nothing}"
        );
    }

    #[test]
    fn figures_for_people_leave_out_what_is_not_known() {
        assert_eq!(
            figures(&job()),
            "3000 of 4096 MiB remain, memory at 119 MiB/s, disks at 0 MiB/s, the guest writes 3 MiB/s, iteration 3"
        );
        assert_eq!(figures(&JobSample { data_remaining: Some(MIB), ..JobSample::default() }), "1 MiB remain");
        assert_eq!(figures(&JobSample::default()), "libvirt reports no figures");
    }
}
