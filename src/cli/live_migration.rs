//! What `check` says of live migration: whether a cluster with the API's defaults would move the VM, and what keeps it.

use serde::Serialize;

use super::table;
use crate::hypervisor::{Feature, Level};
use crate::vmi::manifest::Manifest;
use crate::vmi::{Method, Migratability, Obstacle};

/// virt-handler's answer for the VMI, and the hypervisor's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LiveMigration {
    /// `yes`, `no`, or `depends` on what only the cluster knows.
    migratable: &'static str,
    #[serde(flatten)]
    judged: Migratability,
}

impl LiveMigration {
    /// Judges the VMI of a file; paths become the file's own. `rules` are the hypervisor's.
    pub(super) fn of(manifest: &Manifest, rules: &[Feature]) -> Self {
        let mut judged = Migratability::of(&manifest.vmi);
        for obstacle in &mut judged.obstacles {
            obstacle.path = manifest.path(&obstacle.path);
        }
        let refuses = |rule: &&Feature| {
            rule.operation.as_deref() == Some("MigrateVirtualMachine") && rule.level == Level::Unsupported
        };
        if let Some(rule) = rules.iter().find(refuses) {
            let message = format!("the hypervisor cannot migrate: {}", rule.reason);
            let obstacle =
                Obstacle { path: String::new(), reason: "HypervisorNotLiveMigratable", message, unless: None };
            judged.obstacles.insert(0, obstacle);
        }
        let migratable = match (judged.is_certain(), judged.is_impossible()) {
            (true, _) => "yes",
            (false, true) => "no",
            (false, false) => "depends",
        };
        LiveMigration { migratable, judged }
    }

    /// Lines for people.
    pub(super) fn lines(&self, manifest: &Manifest) -> String {
        let Migratability { method, copied, obstacles } = &self.judged;
        if obstacles.is_empty() {
            return match method {
                Method::LiveMigration => "live migration: yes\n".to_owned(),
                Method::BlockMigration => format!("live migration: yes, with a copy of {}\n", copied.join(", ")),
            };
        }
        let rows = obstacles.iter().map(|Obstacle { path, reason, message, unless }| {
            let line = manifest.line(path).map(|line| format!(" (line {line})")).unwrap_or_default();
            let unless = unless.as_ref().map(|unless| format!("; unless {unless}")).unwrap_or_default();
            [format!("{path}{line}"), (*reason).to_owned(), format!("{message}{unless}")]
        });
        let verdict = match self.migratable {
            "no" => "no",
            _ => "depends on the cluster",
        };
        format!("live migration: {verdict}\n{}", table(&rows.collect::<Vec<_>>()))
    }
}
