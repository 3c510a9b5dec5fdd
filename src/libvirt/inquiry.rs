//! Calls that measure or read what libvirt does not publish by events: statistics, screenshots, job results, SEV data.
#![allow(unsafe_code, reason = "libvirt's C API")]

use std::ffi::{c_int, c_uint};
use std::ptr;

use tokio::time::Instant;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::stream::Stream;

use super::connection::Connection;
use super::error::{Error, VirError, code, last_error};
use super::numbers;
use super::params::{Owned, Params, take_text};
use super::types::{DiskError, JobStats};

/// What one visit gathers about the running domain (contract/cmd-server.md 9.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatsRecord {
    /// libvirt's name.
    pub name: String,
    /// The domain's UUID.
    pub uuid: String,
    /// The values of `virConnectGetAllDomainStats`, under libvirt's names such as `cpu.time`.
    pub params: Params,
}

impl StatsRecord {
    /// `vcpu.<n>.state` of a vCPU that runs.
    pub const VCPU_RUNNING: u64 = 1;
}

/// A picture of the guest's first screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Screenshot {
    /// As libvirt names it, such as `image/png`.
    pub mime: String,
    /// The picture.
    pub data: Vec<u8>,
}

/// BALLOON, CPU_TOTAL, VCPU, INTERFACE, BLOCK, DIRTYRATE.
const STATS: u32 = 4 | 2 | 8 | 16 | 32 | 512;
/// DIRTYRATE alone.
const STATS_DIRTY_RATE: u32 = 512;
/// Running and paused domains; what needs a lock that somebody holds is left out instead of waited for.
const STATS_FLAGS: u32 = 16 | 32 | (1 << 29);
/// A picture that is larger could not be sent: the client takes 4 MiB, gRPC's own fields included.
const SCREENSHOT_BYTES: usize = 4 * 1024 * 1024 - 4096;
/// libvirt's streams carry at most this much in one message.
const STREAM_CHUNK: usize = 256 * 1024;
/// `DOMAIN_JOB_STATS_COMPLETED`.
const JOB_STATS_COMPLETED: u32 = 1;
/// `DUMP_MEMORY_ONLY`.
const DUMP_MEMORY_ONLY: u32 = 16;
/// `DOMAIN_CORE_DUMP_FORMAT_RAW`.
const DUMP_FORMAT_RAW: u32 = 0;

impl Connection {
    /// `virConnectGetAllDomainStats` of the running or paused domain; `None` if there is none. Never waits for a lock on
    /// the domain. `until` is the latest answer.
    pub async fn domain_stats(&self, name: &str, until: Instant) -> Result<Option<StatsRecord>, Error> {
        let (name, left) = (name.to_owned(), until.saturating_duration_since(Instant::now()));
        self.call("virConnectGetAllDomainStats", left, move |connect| stats_of(connect, &name, STATS)).await
    }

    /// The dirty-rate part of the statistics alone.
    pub async fn dirty_rate_stats(&self, name: &str) -> Result<Option<StatsRecord>, Error> {
        let name = name.to_owned();
        self.call("virConnectGetAllDomainStats", self.deadlines().inquiry, move |connect| {
            stats_of(connect, &name, STATS_DIRTY_RATE)
        })
        .await
    }

    /// `virDomainGetVcpuPinInfo`: for each vCPU whether it may run on each of the node's CPUs.
    pub async fn vcpu_pins(&self, name: &str, vcpus: usize, until: Instant) -> Result<Vec<Vec<bool>>, Error> {
        let (name, left) = (name.to_owned(), until.saturating_duration_since(Instant::now()));
        self.call("virDomainGetVcpuPinInfo", left, move |connect| {
            let node = connect.node_info()?;
            let cpus = node.nodes * node.sockets * node.cores * node.threads;
            pins(&connect.lookup_domain_by_name(&name)?, vcpus, usize::try_from(cpus).unwrap_or(0))
        })
        .await
    }

    /// `virDomainStartDirtyRateCalc` over `seconds`; its result appears in the statistics.
    pub async fn start_dirty_rate(&self, name: &str, seconds: i32) -> Result<(), Error> {
        self.on_domain("virDomainStartDirtyRateCalc", self.deadlines().control, name, move |domain| {
            // SAFETY: the domain is alive while it is borrowed.
            check(unsafe { virt_sys::virDomainStartDirtyRateCalc(domain.as_ptr(), seconds, 0) })
        })
        .await
    }

    /// `virDomainScreenshot` of the first screen.
    pub async fn screenshot(&self, name: &str) -> Result<Screenshot, Error> {
        let name = name.to_owned();
        self.call("virDomainScreenshot", self.deadlines().inquiry, move |connect| {
            let domain = connect.lookup_domain_by_name(&name)?;
            let stream = Stream::new(connect, 0)?;
            let mime = domain.screenshot(&stream, 0, 0)?;
            match receive(&stream) {
                Ok(data) => {
                    stream.finish()?;
                    Ok(Screenshot { mime, data })
                }
                Err(error) => {
                    // The first error is the one to return.
                    let _ = stream.abort();
                    Err(error)
                }
            }
        })
        .await
    }

    /// `virDomainCoreDumpWithFormat` of the guest's memory alone, as an ELF file.
    pub async fn dump_memory(&self, name: &str, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.on_domain("virDomainCoreDumpWithFormat", self.deadlines().dump, name, move |domain| {
            Ok(domain.core_dump_with_format(&path, DUMP_FORMAT_RAW, DUMP_MEMORY_ONLY)?)
        })
        .await
    }

    /// `virDomainGetJobStats` of the job that runs.
    pub async fn job_stats(&self, name: &str) -> Result<JobStats, Error> {
        self.on_domain("virDomainGetJobStats", self.deadlines().read, name, |domain| job_stats(domain, 0)).await
    }

    /// `virDomainGetJobStats` of the job that ended last.
    pub async fn completed_job_stats(&self, name: &str) -> Result<JobStats, Error> {
        self.on_domain("virDomainGetJobStats", self.deadlines().read, name, |domain| {
            job_stats(domain, JOB_STATS_COMPLETED)
        })
        .await
    }

    /// `virDomainAbortJob`.
    pub async fn abort_job(&self, name: &str) -> Result<(), Error> {
        self.on_domain("virDomainAbortJob", self.deadlines().control, name, |domain| {
            // SAFETY: the domain is alive while it is borrowed.
            check(unsafe { virt_sys::virDomainAbortJob(domain.as_ptr()) })
        })
        .await
    }

    /// `virDomainGetDiskErrors`: target device and error of each disk that failed.
    pub async fn disk_errors(&self, name: &str) -> Result<Vec<(String, DiskError)>, Error> {
        self.on_domain("virDomainGetDiskErrors", self.deadlines().read, name, disk_errors).await
    }

    /// `virNodeGetSEVInfo`.
    pub async fn sev_info(&self) -> Result<Params, Error> {
        self.call("virNodeGetSEVInfo", self.deadlines().inquiry, |connect| {
            let list = Owned::filled(|params, count| {
                // SAFETY: the connection is alive while it is borrowed; both places are valid.
                unsafe { virt_sys::virNodeGetSEVInfo(connect.as_ptr(), params, count, 0) }
            })?;
            Ok(list.read())
        })
        .await
    }

    /// `virDomainGetLaunchSecurityInfo`.
    pub async fn launch_security_info(&self, name: &str) -> Result<Params, Error> {
        self.on_domain("virDomainGetLaunchSecurityInfo", self.deadlines().inquiry, name, |domain| {
            let list = Owned::filled(|params, count| {
                // SAFETY: the domain is alive while it is borrowed; both places are valid.
                unsafe { virt_sys::virDomainGetLaunchSecurityInfo(domain.as_ptr(), params, count, 0) }
            })?;
            Ok(list.read())
        })
        .await
    }

    /// `virDomainSetLaunchSecurityState` with a secret and its header.
    pub async fn inject_launch_secret(&self, name: &str, header: &str, secret: &str) -> Result<(), Error> {
        let (header, secret) = (header.to_owned(), secret.to_owned());
        self.on_domain("virDomainSetLaunchSecurityState", self.deadlines().control, name, move |domain| {
            let list = Owned::of_texts(&[("sev-secret", &secret), ("sev-secret-header", &header)])?;
            let (params, count) = list.raw();
            // SAFETY: the domain is alive while it is borrowed, the list until the end of this block.
            check(unsafe { virt_sys::virDomainSetLaunchSecurityState(domain.as_ptr(), params, count, 0) })
        })
        .await
    }
}

pub(super) fn check(answer: c_int) -> Result<(), VirError> {
    if answer < 0 { Err(last_error()) } else { Ok(()) }
}

fn stats_of(connect: &Connect, name: &str, stats: u32) -> Result<Option<StatsRecord>, VirError> {
    let mut records: *mut virt_sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection is alive while it is borrowed; libvirt fills in a list that is released below.
    let count = unsafe { virt_sys::virConnectGetAllDomainStats(connect.as_ptr(), stats, &mut records, STATS_FLAGS) };
    let Ok(count) = usize::try_from(count) else { return Err(last_error()) };
    let mut found = None;
    for index in 0..count {
        // SAFETY: libvirt gave `count` records, each with a domain and its parameters, alive until the list is released.
        let record = unsafe {
            let record = &**records.add(index);
            StatsRecord {
                name: name_of(record.dom),
                uuid: uuid_of(record.dom),
                params: Params::copy(record.params, record.nparams),
            }
        };
        if record.name == name {
            found = Some(record);
            break;
        }
    }
    // SAFETY: the list came from libvirt and this is its only release.
    unsafe { virt_sys::virDomainStatsRecordListFree(records) };
    Ok(found)
}

/// SAFETY: `domain` is valid.
unsafe fn name_of(domain: virt_sys::virDomainPtr) -> String {
    // SAFETY: the name lives as long as the domain object.
    unsafe {
        let name = virt_sys::virDomainGetName(domain);
        if name.is_null() { String::new() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// SAFETY: `domain` is valid.
unsafe fn uuid_of(domain: virt_sys::virDomainPtr) -> String {
    let mut bytes = [0_u8; 16];
    // SAFETY: libvirt writes VIR_UUID_BUFLEN = 16 bytes.
    match unsafe { virt_sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } {
        0 => uuid::Uuid::from_bytes(bytes).to_string(),
        _ => String::new(),
    }
}

fn pins(domain: &Domain, vcpus: usize, cpus: usize) -> Result<Vec<Vec<bool>>, VirError> {
    let bytes = cpus.div_ceil(8);
    if vcpus == 0 || bytes == 0 {
        return Ok(Vec::new());
    }
    let mut maps = vec![0_u8; vcpus * bytes];
    let as_int = |value: usize| c_int::try_from(value).unwrap_or(c_int::MAX);
    // SAFETY: the buffer holds `vcpus` maps of `bytes` bytes each, the number that is passed to the call.
    let filled = unsafe {
        virt_sys::virDomainGetVcpuPinInfo(domain.as_ptr(), as_int(vcpus), maps.as_mut_ptr(), as_int(bytes), 0)
    };
    let Ok(filled) = usize::try_from(filled) else { return Err(last_error()) };
    let bit = |map: &[u8], cpu: usize| map.get(cpu / 8).is_some_and(|byte| byte & (1 << (cpu % 8)) != 0);
    Ok(maps.chunks_exact(bytes).take(filled).map(|map| (0..cpus).map(|cpu| bit(map, cpu)).collect()).collect())
}

fn receive(stream: &Stream) -> Result<Vec<u8>, VirError> {
    let (mut data, mut chunk) = (Vec::new(), vec![0_u8; STREAM_CHUNK]);
    loop {
        let got = usize::try_from(stream.recv(&mut chunk)?).unwrap_or(0);
        if got == 0 {
            return Ok(data);
        }
        data.extend_from_slice(chunk.get(..got).unwrap_or_default());
        if data.len() > SCREENSHOT_BYTES {
            return Err(VirError {
                code: code::OPERATION_FAILED,
                domain: 0,
                message: format!("the screenshot has more than the {SCREENSHOT_BYTES} bytes that a reply can carry"),
            });
        }
    }
}

pub(super) fn job_stats(domain: &Domain, flags: c_uint) -> Result<JobStats, VirError> {
    let mut job_type: c_int = 0;
    let list = Owned::filled(|params, count| {
        // SAFETY: the domain is alive while it is borrowed; all places are valid.
        unsafe { virt_sys::virDomainGetJobStats(domain.as_ptr(), &mut job_type, params, count, flags) }
    })?;
    Ok(JobStats::new(job_type, &list.read()))
}

fn disk_errors(domain: &Domain) -> Result<Vec<(String, DiskError)>, VirError> {
    // SAFETY: without a buffer the call only counts the disks.
    let disks = unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    let Ok(room) = usize::try_from(disks) else { return Err(last_error()) };
    if room == 0 {
        return Ok(Vec::new());
    }
    let mut errors = vec![virt_sys::virDomainDiskError { disk: ptr::null_mut(), error: 0 }; room];
    let limit = c_uint::try_from(room).unwrap_or(c_uint::MAX);
    // SAFETY: the buffer has room for as many errors as the call is asked for.
    let found = unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), limit, 0) };
    let Ok(found) = usize::try_from(found) else { return Err(last_error()) };
    let named = errors.into_iter().take(found).filter(|error| !error.disk.is_null());
    // SAFETY: each name was allocated by libvirt for the caller to release.
    let named = named.map(|error| (unsafe { take_text(error.disk) }, error.error));
    Ok(named.filter_map(|(disk, error)| Some((disk, numbers::disk_error(error)?))).collect())
}
