//! The host CPUs that belong to the pod, and how guest threads are laid onto them (contract/domain-xml-qemu.md 6.4.1, 6.4.2).
//!
//! Whole guest cores go onto whole host cores first, then onto left-over threads of one NUMA cell, and only then, where that
//! is allowed, across cells.

use std::collections::{BTreeSet, VecDeque};

use super::options::Topology;

/// Why guest threads do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PoolError {
    /// There are too few CPUs.
    #[error("not enough exclusive threads provided, could not fit {0} core(s)")]
    TooFew(u64),
    /// There are enough, but a core's threads would come from different NUMA cells.
    #[error("could not fit {0} core(s) without crossing numa cell boundaries for individual cores")]
    Scattered(u64),
    /// A thread was asked for and all are taken.
    #[error("no remaining unassigned threads")]
    Empty,
}

/// CPUs that are not taken yet, by NUMA cell.
#[derive(Debug)]
pub(super) struct CpuPool {
    cells: Vec<PoolCell>,
    /// Guest threads in a guest core; at least 1.
    threads_per_core: usize,
    /// CPUs of the pod at the start.
    size: usize,
    may_cross_cells: bool,
}

/// The free CPUs of a NUMA cell.
#[derive(Debug, Default)]
struct PoolCell {
    /// Host cores with room for a guest core.
    cores: VecDeque<VecDeque<u32>>,
    /// Threads of the other host cores.
    fragments: VecDeque<u32>,
}

impl PoolCell {
    /// Takes `count` threads from the first host core; the rest of that core stays a core if it has room for another
    /// guest core.
    fn take_from_core(&mut self, count: usize, threads_per_core: usize) -> Option<Vec<u32>> {
        let mut core = self.cores.pop_front()?;
        let rest = core.split_off(count.min(core.len()));
        if rest.len() >= threads_per_core {
            self.cores.push_front(rest);
        } else {
            self.fragments.extend(rest);
        }
        Some(core.into())
    }

    fn take_fragments(&mut self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let count = count.min(self.fragments.len());
        self.fragments.drain(..count)
    }
}

impl CpuPool {
    /// The CPUs of `cpu_set` as `topology` lays them out.
    pub(super) fn new(topology: &Topology, cpu_set: &[u32], threads_per_core: u32, may_cross_cells: bool) -> Self {
        // A machine has at most 4096 vCPUs (`limits::vcpus`): these numbers and their products are small.
        let threads_per_core = threads_per_core.max(1) as usize;
        let ours: BTreeSet<u32> = cpu_set.iter().copied().collect();
        let mut visited: BTreeSet<u32> = BTreeSet::new();
        let mut cells = Vec::new();
        for cell in &topology.numa_cells {
            let mut free = PoolCell::default();
            for cpu in &cell.cpus {
                if visited.contains(&cpu.id) {
                    continue;
                }
                // A CPU without siblings is a core of its own.
                let own = [cpu.id];
                let siblings = if cpu.siblings.is_empty() { &own[..] } else { &cpu.siblings[..] };
                visited.extend(siblings);
                let core: VecDeque<u32> = siblings.iter().copied().filter(|thread| ours.contains(thread)).collect();
                if core.len() >= threads_per_core {
                    free.cores.push_back(core);
                } else {
                    free.fragments.extend(core);
                }
            }
            cells.push(free);
        }
        CpuPool { cells, threads_per_core, size: cpu_set.len(), may_cross_cells }
    }

    /// Host CPUs for `cores` guest cores, a core's threads side by side. With more than one thread per core and cells that
    /// may be crossed, the last core may come out short: its missing threads are then not pinned, as in the original.
    pub(super) fn take_cores(&mut self, cores: u64) -> Result<Vec<u32>, PoolError> {
        let per_core = self.threads_per_core;
        let mut open = cores;
        let mut threads = Vec::new();
        for cell in &mut self.cells {
            while open > 0
                && let Some(core) = cell.take_from_core(per_core, per_core)
            {
                threads.extend(core);
                open -= 1;
            }
        }
        for cell in &mut self.cells {
            while open > 0 && cell.fragments.len() >= per_core {
                threads.extend(cell.take_fragments(per_core));
                open -= 1;
            }
        }
        if open > 0 && self.may_cross_cells {
            let mut open_threads = open as usize * per_core;
            for cell in &mut self.cells {
                let before = threads.len();
                threads.extend(cell.take_fragments(open_threads));
                open_threads -= threads.len() - before;
            }
            open = (open_threads / per_core) as u64;
        }
        if open == 0 {
            return Ok(threads);
        }
        let wanted = u128::from(cores) * per_core as u128;
        if self.may_cross_cells || (self.size as u128) < wanted {
            return Err(PoolError::TooFew(open));
        }
        Err(PoolError::Scattered(open))
    }

    /// One host CPU, from left-over threads first.
    pub(super) fn take_thread(&mut self) -> Result<u32, PoolError> {
        for cell in &mut self.cells {
            if let Some(thread) = cell.fragments.pop_front() {
                return Ok(thread);
            }
            if let Some(thread) = cell.take_from_core(1, self.threads_per_core).and_then(|core| core.first().copied()) {
                return Ok(thread);
            }
        }
        Err(PoolError::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Cell, HostCpu};
    use super::*;

    /// Cells of cores of threads.
    fn node(cells: &[&[&[u32]]]) -> Topology {
        let cpus =
            |core: &&[u32]| core.iter().map(|id| HostCpu { id: *id, siblings: core.to_vec() }).collect::<Vec<_>>();
        let cell = |(id, cores): (usize, &&[&[u32]])| Cell {
            id: id as u32,
            cpus: cores.iter().flat_map(cpus).collect(),
            ..Cell::default()
        };
        Topology { numa_cells: cells.iter().enumerate().map(cell).collect() }
    }

    #[test]
    fn whole_cores_come_first_then_fragments_of_one_cell_then_across_cells() {
        let node = node(&[&[&[0, 10], &[1, 11], &[2, 12]], &[&[3, 13], &[4, 14]]]);
        let set = [0, 10, 1, 12, 3, 4];
        let mut pool = CpuPool::new(&node, &set, 2, true);
        // core 0 whole; 1 and 12 are fragments of cell 0; 3 and 4 of cell 1
        assert_eq!(pool.take_cores(3), Ok(vec![0, 10, 1, 12, 3, 4]));
        assert_eq!(pool.take_thread(), Err(PoolError::Empty));
        let set = [0, 1, 3];
        assert_eq!(CpuPool::new(&node, &set, 2, false).take_cores(1), Ok(vec![0, 1]));
        let set = [0, 3];
        assert_eq!(CpuPool::new(&node, &set, 2, false).take_cores(1), Err(PoolError::Scattered(1)));
        assert_eq!(CpuPool::new(&node, &set, 2, true).take_cores(1), Ok(vec![0, 3]));
        assert_eq!(CpuPool::new(&node, &set, 2, false).take_cores(2), Err(PoolError::TooFew(2)));
    }

    #[test]
    fn core_may_come_out_short_only_across_cells() {
        let node = node(&[&[&[0, 10], &[1, 11]]]);
        // One thread is missing for the second core: not an error (6.4.2).
        assert_eq!(CpuPool::new(&node, &[0, 10, 1], 2, true).take_cores(2), Ok(vec![0, 10, 1]));
        assert_eq!(CpuPool::new(&node, &[0, 10], 2, true).take_cores(2), Err(PoolError::TooFew(1)));
        assert_eq!(CpuPool::new(&node, &[0, 10, 1], 2, false).take_cores(2), Err(PoolError::TooFew(1)));
    }

    #[test]
    fn single_thread_breaks_a_core_up_only_if_it_must() {
        let node = node(&[&[&[0, 10], &[1, 11]]]);
        let mut pool = CpuPool::new(&node, &[0, 10, 1], 2, true);
        assert_eq!(pool.take_thread(), Ok(1));
        assert_eq!(pool.take_thread(), Ok(0));
        assert_eq!(pool.take_thread(), Ok(10));
        assert_eq!(pool.take_thread(), Err(PoolError::Empty));
        // Four siblings hold two guest cores of two threads.
        let wide = self::node(&[&[&[0, 1, 2, 3, 4]]]);
        let mut pool = CpuPool::new(&wide, &[0, 1, 2, 3, 4], 2, true);
        assert_eq!(pool.take_cores(2), Ok(vec![0, 1, 2, 3]));
        assert_eq!(pool.take_thread(), Ok(4));
    }

    #[test]
    fn cpu_without_siblings_is_a_core() {
        let cpu = |id| HostCpu { id, siblings: Vec::new() };
        let cells = vec![Cell { cpus: vec![cpu(5), cpu(7)], ..Cell::default() }];
        let mut pool = CpuPool::new(&Topology { numa_cells: cells }, &[7], 1, false);
        assert_eq!(pool.take_cores(1), Ok(vec![7]));
        assert_eq!(CpuPool::new(&Topology::default(), &[7], 1, false).take_cores(1), Err(PoolError::Scattered(1)));
    }
}
