//! The system's own files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::FlockOperation;

use super::io::{Access, Entry, Io, IoFile};

/// A folder of the file system.
#[derive(Clone, Debug)]
pub struct RealIo {
    folder: PathBuf,
    direct: bool,
}

impl RealIo {
    /// The folder need not exist yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), direct: false }
    }

    /// Whether large writes from page-aligned memory go past the page cache, where the system can (Linux, `O_DIRECT`).
    /// They cost a fraction of the processor time and run at the disk's own rate; what is read again soon after comes from
    /// the disk then.
    #[must_use]
    pub fn direct_writes(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Io for RealIo {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            fs::create_dir_all(&self.folder)
        } else {
            ignore_existing(fs::create_dir(self.folder.join(path)))
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let entries = fs::read_dir(self.folder.join(path))?.map(|entry| {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            let bytes = if is_folder { 0 } else { entry.metadata()?.len() };
            Ok(Entry { name: entry.file_name().to_string_lossy().into_owned(), is_folder, bytes })
        });
        // A file may go between being listed and being looked at.
        entries.filter(|entry| !matches!(entry, Err(error) if is_missing(error))).collect()
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn IoFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => {}
            Access::Write => {
                options.write(true);
            }
            Access::Create => {
                options.write(true).create(true).truncate(true);
            }
        }
        let path = self.folder.join(path);
        let file = options.open(&path)?;
        let direct = self.direct && access != Access::Read;
        Ok(Arc::new(RealFile { file, path: direct.then_some(path), direct: OnceLock::new() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(path))
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        let folder = if path.is_empty() { self.folder.clone() } else { self.folder.join(path) };
        Ok(rustix::fs::fsync(&File::open(folder)?)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = rustix::fs::statvfs(&self.folder)?;
        Ok(state.f_bavail.saturating_mul(state.f_frsize))
    }

    fn lock(&self, path: &str) -> io::Result<Option<Arc<dyn IoFile>>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.folder.join(path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Arc::new(RealFile { file, path: None, direct: OnceLock::new() }))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn ignore_existing(made: io::Result<()>) -> io::Result<()> {
    made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Given if large writes may go past the page cache.
    path: Option<PathBuf>,
    /// The same file opened for that, once it was wanted; `None` where the file system refuses.
    direct: OnceLock<Option<File>>,
}

/// Bytes from which on a write goes past the page cache: below it the wait for the disk costs more than the copy.
const DIRECT_BYTES: usize = 1 << 20;
/// Alignment of memory, offset and length that every device accepts.
const DIRECT_ALIGN: usize = 4096;

impl RealFile {
    /// Writes the aligned front of the slices past the page cache; `None` if there is too little of it, or it cannot be.
    #[cfg(target_os = "linux")]
    fn write_direct(&self, from: &[IoSlice<'_>], offset: u64) -> Option<usize> {
        let path = self.path.as_ref()?;
        if !offset.is_multiple_of(DIRECT_ALIGN as u64) {
            return None;
        }
        let mut aligned: Vec<IoSlice<'_>> = Vec::with_capacity(from.len());
        let mut bytes = 0;
        for slice in from {
            if slice.as_ptr().align_offset(DIRECT_ALIGN) != 0 {
                break;
            }
            let whole = slice.len() / DIRECT_ALIGN * DIRECT_ALIGN;
            aligned.push(IoSlice::new(&slice[..whole]));
            bytes += whole;
            if whole < slice.len() {
                break;
            }
        }
        if bytes < DIRECT_BYTES {
            return None;
        }
        let file = self.direct.get_or_init(|| {
            use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
            let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
            let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
            // The name may have been given to another file meanwhile.
            let same = file.metadata().ok()?.ino() == self.file.metadata().ok()?.ino();
            same.then_some(file)
        });
        // Any error shows again, or does not, when the same bytes go through the page cache.
        rustix::io::pwritev(file.as_ref()?, &aligned, offset).ok().filter(|written| *written > 0)
    }

    #[cfg(not(target_os = "linux"))]
    fn write_direct(&self, _: &[IoSlice<'_>], _: u64) -> Option<usize> {
        None
    }
}

impl IoFile for RealFile {
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::preadv(&self.file, into, offset)?)
    }

    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        if let Some(written) = self.write_direct(from, offset) {
            return Ok(written);
        }
        Ok(rustix::io::pwritev(&self.file, from, offset)?)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    #[cfg(target_vendor = "apple")]
    fn sync(&self) -> io::Result<()> {
        // fsync leaves the data in the drive's cache on macOS; file systems without F_FULLFSYNC have only that.
        rustix::fs::fcntl_fullfsync(&self.file).or_else(|_| rustix::fs::fsync(&self.file))?;
        Ok(())
    }

    #[cfg(not(target_vendor = "apple"))]
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(rustix::fs::fstat(&self.file)?.st_nlink > 0)
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "rustix has no sync_file_range")]
    fn start_writeback(&self, offset: u64, bytes: u64) {
        use std::os::fd::AsRawFd as _;
        let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return };
        // SAFETY: the descriptor is open for as long as `self`; the call takes no memory of ours. It is a hint: an
        // error shows again in `sync`.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    #[cfg(target_os = "linux")]
    fn prefetch(&self, offset: u64, bytes: u64) {
        // A hint; what it says does not matter.
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::WillNeed);
    }
}
