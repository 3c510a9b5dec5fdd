//! How far a migration has come, for who waits in front of a terminal.

use serde_json::Value;

/// Cells of the bar.
const BAR: u64 = 24;

/// `MigrateDomainJobInfo` of the source (contract/migration.md 4.6), in bytes and bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) total: u64,
    pub(super) left: u64,
    pub(super) processed: u64,
    pub(super) rate: Option<u64>,
    pub(super) dirty_rate: Option<u64>,
}

impl Figures {
    /// The figures in the document of GetDomainStats; `None` while libvirt reports none.
    pub(super) fn of(stats: &Value) -> Option<Self> {
        let job = stats.get("MigrateDomainJobInfo")?;
        let number = |name: &str| {
            let is_set = job.get(format!("{name}Set")) == Some(&Value::Bool(true));
            job.get(name).and_then(Value::as_u64).filter(|_| is_set)
        };
        Some(Figures {
            total: number("DataTotal").filter(|total| *total > 0)?,
            left: number("DataRemaining")?,
            processed: number("DataProcessed").unwrap_or_default(),
            rate: number("MemoryBps").filter(|rate| *rate > 0),
            dirty_rate: number("MemDirtyRate"),
        })
    }

    /// Milliseconds that the guest would stand still if what is left were sent now.
    fn downtime(&self) -> Option<u64> {
        let rate = self.rate?;
        u64::try_from(u128::from(self.left) * 1000 / u128::from(rate)).ok()
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        let done = self.total.saturating_sub(self.left);
        let share =
            |cells: u64| u64::try_from(u128::from(done) * u128::from(cells) / u128::from(self.total)).unwrap_or(cells);
        let cells = share(BAR).min(BAR);
        let bar: String = (0..BAR).map(|cell| if cell < cells { '#' } else { '.' }).collect();
        let mut line = format!("[{bar}] {:3} %  {} of {} left", share(100), size(self.left), size(self.total));
        if let Some(rate) = self.rate {
            line.push_str(&format!(", {}/s", size(rate)));
        }
        if let Some(dirty) = self.dirty_rate {
            line.push_str(&format!(", guest writes {}/s", size(dirty)));
        }
        if let Some(downtime) = self.downtime() {
            line.push_str(&format!(", downtime now {downtime} ms"));
        }
        line
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value >= 10.0 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_those_of_the_job() {
        let stats = json!({ "MigrateDomainJobInfo": {
            "DataTotalSet": true, "DataTotal": 128 << 20, "DataRemainingSet": true, "DataRemaining": 32 << 20,
            "DataProcessedSet": true, "DataProcessed": 90 << 20, "MemoryBpsSet": true, "MemoryBps": 64 << 20,
            "MemDirtyRateSet": false, "MemDirtyRate": 0,
        } });
        let figures = Figures::of(&stats).unwrap();
        assert_eq!(figures.dirty_rate, None);
        assert_eq!(
            figures.line(),
            "[##################......]  75 %  32 MiB of 128 MiB left, 64 MiB/s, downtime now 500 ms"
        );
        let written = Figures { dirty_rate: Some(1 << 19), left: 0, rate: None, ..figures };
        let whole = "#".repeat(24);
        assert_eq!(written.line(), format!("[{whole}] 100 %  0.0 KiB of 128 MiB left, guest writes 512 KiB/s"));
    }

    #[test]
    fn no_job_gives_no_figures() {
        for stats in [json!({}), json!({ "MigrateDomainJobInfo": { "DataTotalSet": true, "DataTotal": 0 } })] {
            assert_eq!(Figures::of(&stats), None);
        }
    }

    #[test]
    fn sizes_keep_two_digits() {
        for (bytes, text) in
            [(0, "0.0 KiB"), (1536, "1.5 KiB"), (10 << 20, "10 MiB"), (5 << 40, "5.0 TiB"), (2048 << 40, "2048 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
