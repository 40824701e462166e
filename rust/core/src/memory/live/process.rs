//! What the system says of this process.
//!
//! macOS: `phys_footprint`, the number that Activity Monitor shows and the kernel kills by (`proc_pid_rusage`, XNU's
//! `bsd/sys/resource.h`). Linux: `Anonymous + Swap` of `/proc/self/smaps_rollup` (proc(5)), which like it leaves out clean
//! pages of files. That walks the page tables under a lock which the process itself takes when it maps memory, so it is
//! read when somebody asks; a sample takes the resident pages of `statm` there.

#[cfg(target_os = "linux")]
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::Read;

/// How the full reading is made.
pub(super) const FOOTPRINT_HOW: &str =
    if cfg!(target_os = "macos") { "phys_footprint" } else { "Anonymous + Swap of /proc/self/smaps_rollup" };

/// What the system says of this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessFigures {
    /// Memory that is this process's alone, in bytes; or why it is not known.
    pub footprint_bytes: Result<u64, String>,
    /// Page faults that had to read, since the process began; or why they are not known.
    pub major_faults: Result<u64, String>,
}

impl ProcessFigures {
    /// Asks.
    #[must_use]
    pub fn read() -> Self {
        Self { footprint_bytes: footprint_bytes(), major_faults: major_faults().ok_or_else(no_rusage) }
    }
}

fn no_rusage() -> String {
    "getrusage failed".to_owned()
}

/// Memory of the process in a few microseconds; `None` where that cannot be had.
#[must_use]
pub fn cheap_footprint_bytes() -> Option<u64> {
    if cfg!(target_os = "macos") { footprint_bytes().ok() } else { resident_bytes() }
}

/// Page faults of this process that had to read, since it began.
#[cfg(unix)]
#[must_use]
#[expect(unsafe_code, reason = "getrusage")]
pub fn major_faults() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage` of ours, and all zeros is one already.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    u64::try_from(usage.ru_majflt).ok()
}

/// Nobody counts them here.
#[cfg(not(unix))]
#[must_use]
pub fn major_faults() -> Option<u64> {
    None
}

#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "proc_pid_rusage")]
fn footprint_bytes() -> Result<u64, String> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage_info_v2>::zeroed();
    let pid = std::process::id().cast_signed();
    // SAFETY: the flavour says which structure the pointer is to, it is ours, and all zeros is one already.
    let usage = unsafe {
        if libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V2, usage.as_mut_ptr().cast()) != 0 {
            return Err(format!("proc_pid_rusage failed: {}", std::io::Error::last_os_error()));
        }
        usage.assume_init()
    };
    Ok(usage.ri_phys_footprint)
}

#[cfg(target_os = "linux")]
fn footprint_bytes() -> Result<u64, String> {
    let path = "/proc/self/smaps_rollup";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    private_bytes(&text).ok_or_else(|| format!("{path} has no Anonymous"))
}

/// `Anonymous + Swap`, in bytes.
#[cfg(any(target_os = "linux", test))]
pub(super) fn private_bytes(smaps_rollup: &str) -> Option<u64> {
    let kibibytes = |name: &str| {
        let line = smaps_rollup.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    // A kernel without swap leaves that line out.
    Some((kibibytes("Anonymous")? + kibibytes("Swap").unwrap_or(0)) * 1024)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn footprint_bytes() -> Result<u64, String> {
    Err("no reading is known for this system".to_owned())
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    // On the stack: a sample allocates nothing.
    let mut text = [0_u8; 128];
    let length = File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    let pages: u64 = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}
