//! Past the page cache: large reads and writes straight between the disk and memory, where the system can (Linux).
//!
//! They cost a fraction of the processor's time, run at the disk's own rate and take no memory from others: on the machine
//! measured, 2 GiB cost 0.05 s of processor time in place of 1.2 s. What the page cache has is still read from there.
#![expect(unsafe_code, reason = "aligned memory, and a system call that rustix does not have")]

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Bytes from which on a write goes past the page cache: below it the wait for the disk costs more than the copy.
const WRITE_BYTES: usize = 1 << 20;
/// The same for a read.
const READ_BYTES: usize = 256 << 10;
/// Alignment of memory, offset and length that every device accepts.
const ALIGN: usize = 4096;
/// Most that is read at a time into memory that is not aligned, by way of the thread's own.
const BOUNCE_BYTES: usize = 1 << 20;

/// A second way to a file.
#[derive(Debug)]
pub(super) struct Direct {
    path: PathBuf,
    writes: bool,
    /// Opened when it is first wanted; `None` where the file system refuses.
    file: OnceLock<Option<File>>,
}

impl Direct {
    pub(super) fn new(path: PathBuf, writes: bool) -> Self {
        Self { path, writes, file: OnceLock::new() }
    }

    /// The file, opened anew for this; `same` is the one that is open already.
    fn file(&self, same: &File) -> Option<&File> {
        let open = || {
            let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
            let file = OpenOptions::new().read(true).write(self.writes).custom_flags(flags).open(&self.path).ok()?;
            // The name may have been given to another file meanwhile.
            (file.metadata().ok()?.ino() == same.metadata().ok()?.ino()).then_some(file)
        };
        self.file.get_or_init(open).as_ref()
    }

    /// Writes the aligned front of the slices; `None` if there is too little of it, or it cannot be. Any error shows again,
    /// or does not, when the same bytes go through the page cache.
    pub(super) fn write(&self, same: &File, from: &[IoSlice<'_>], offset: u64) -> Option<usize> {
        if !offset.is_multiple_of(ALIGN as u64) {
            return None;
        }
        let mut aligned: Vec<IoSlice<'_>> = Vec::with_capacity(from.len());
        let mut bytes = 0;
        for slice in from {
            if slice.as_ptr().align_offset(ALIGN) != 0 {
                break;
            }
            let whole = slice.len() / ALIGN * ALIGN;
            aligned.push(IoSlice::new(&slice[..whole]));
            bytes += whole;
            if whole < slice.len() {
                break;
            }
        }
        if bytes < WRITE_BYTES {
            return None;
        }
        rustix::io::pwritev(self.file(same)?, &aligned, offset).ok().filter(|written| *written > 0)
    }

    /// Reads what the page cache does not have; `None` if that is too little, or it cannot be. May read less than asked.
    pub(super) fn read(&self, same: &File, into: &mut [IoSliceMut<'_>], offset: u64) -> Option<usize> {
        let bytes: usize = into.iter().map(|slice| slice.len()).sum();
        if bytes < READ_BYTES || is_mostly_cached(same, offset, bytes as u64)? {
            return None;
        }
        let file = self.file(same)?;
        let fits =
            |slice: &IoSliceMut<'_>| slice.as_ptr().align_offset(ALIGN) == 0 && slice.len().is_multiple_of(ALIGN);
        if offset.is_multiple_of(ALIGN as u64) && into.iter().all(fits) {
            return rustix::io::preadv(file, into, offset).ok();
        }
        let skip = usize::try_from(offset % ALIGN as u64).ok()?;
        let wanted = bytes.min(BOUNCE_BYTES - skip);
        with_bounce(|bounce| {
            let length = (skip + wanted).next_multiple_of(ALIGN);
            let read = rustix::io::pread(file, &mut bounce[..length], offset - skip as u64).ok()?;
            let mut rest = &bounce[skip.min(read)..read.min(skip + wanted)];
            let got = rest.len();
            for slice in into {
                let (now, later) = rest.split_at(rest.len().min(slice.len()));
                slice[..now.len()].copy_from_slice(now);
                rest = later;
            }
            Some(got)
        })
    }
}

/// Whether most of a range is in the page cache; `None` where the system does not tell (Linux before 6.5).
fn is_mostly_cached(file: &File, offset: u64, bytes: u64) -> Option<bool> {
    /// `cachestat(2)`: the same number on all architectures, and not in `libc` for each of them.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, bytes];
    // Pages cached, dirty, being written back, evicted, evicted of late.
    let mut pages = [0_u64; 5];
    // SAFETY: the descriptor is open; `range` and `pages` have the layout of `cachestat_range` and `cachestat`, and live as
    // long as the call.
    let failed = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0) };
    (failed == 0).then(|| pages[0] * rustix::param::page_size() as u64 * 2 >= bytes)
}

/// Runs `work` with this thread's aligned memory of [`BOUNCE_BYTES`].
fn with_bounce<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    struct Bounce(NonNull<u8>);

    const LAYOUT: std::alloc::Layout = match std::alloc::Layout::from_size_align(BOUNCE_BYTES, ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };

    impl Drop for Bounce {
        fn drop(&mut self) {
            // SAFETY: allocated with this layout, once.
            unsafe { std::alloc::dealloc(self.0.as_ptr(), LAYOUT) };
        }
    }

    thread_local! {
        static BOUNCE: std::cell::RefCell<Bounce> = std::cell::RefCell::new(Bounce(
            // SAFETY: the layout's size is not zero.
            NonNull::new(unsafe { std::alloc::alloc_zeroed(LAYOUT) })
                .unwrap_or_else(|| std::alloc::handle_alloc_error(LAYOUT)),
        ));
    }
    BOUNCE.with_borrow_mut(|bounce| {
        // SAFETY: the memory is so long, was zeroed, and is borrowed by this call alone.
        work(unsafe { std::slice::from_raw_parts_mut(bounce.0.as_ptr(), BOUNCE_BYTES) })
    })
}
