//! The system's own files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

#[cfg(target_os = "linux")]
use super::direct::Direct;
use super::io::{Access, Entry, FileId, Io, IoFile};

/// Bytes of one system call: macOS refuses those of 2 GiB and more.
const MOST_BYTES: usize = 1 << 30;

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
        Self { folder: folder.to_owned(), direct: true }
    }

    /// Whether large writes from page-aligned memory, and large reads of what is not in the page cache, go past it, where
    /// the system can (Linux, `O_DIRECT`). They do unless this says otherwise.
    #[must_use]
    pub fn past_page_cache(mut self, direct: bool) -> Self {
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
        if !path.is_empty() {
            return match fs::create_dir(self.folder.join(path)) {
                Ok(()) => self.sync_folder(""),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            };
        }
        let made: Vec<&Path> = self.folder.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(&self.folder)?;
        for folder in made.iter().filter_map(|folder| folder.parent()) {
            let parent = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            // A parent that may be written need not be readable; then the name lasts when the system comes to it.
            let _ = File::open(parent).map(|parent| rustix::fs::fsync(&parent));
        }
        Ok(())
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
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let path = self.folder.join(path);
        let file = options.open(&path)?;
        Ok(Arc::new(RealFile::new(file, self.direct.then(|| (path, access != Access::Read)))))
    }

    fn file_id(&self, path: &str) -> io::Result<FileId> {
        Ok(id_of(&fs::metadata(self.folder.join(path))?))
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
            Ok(()) => Ok(Some(Arc::new(LockFile { file: RealFile::new(file, None), process: std::process::id() }))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// How many leading slices one call can take; 0 where the first alone is too long.
fn whole_slices(lengths: impl Iterator<Item = usize>) -> usize {
    lengths
        .scan(0_usize, |sum, length| {
            *sum = sum.saturating_add(length);
            (*sum <= MOST_BYTES).then_some(())
        })
        .count()
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn id_of(metadata: &fs::Metadata) -> FileId {
    FileId { device: metadata.dev(), inode: metadata.ino() }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    #[cfg(target_os = "linux")]
    direct: Option<Direct>,
}

impl RealFile {
    /// A file, with its path and whether it is written if large parts may go past the page cache.
    #[cfg(target_os = "linux")]
    fn new(file: File, direct: Option<(PathBuf, bool)>) -> Self {
        Self { file, direct: direct.map(|(path, writes)| Direct::new(path, writes)) }
    }

    #[cfg(not(target_os = "linux"))]
    fn new(file: File, _direct: Option<(PathBuf, bool)>) -> Self {
        Self { file }
    }
}

impl IoFile for RealFile {
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if let Some(read) = self.direct.as_ref().and_then(|direct| direct.read(&self.file, into, offset)) {
            return Ok(read);
        }
        match whole_slices(into.iter().map(|slice| slice.len())) {
            0 if !into.is_empty() => Ok(rustix::io::pread(&self.file, &mut into[0][..MOST_BYTES], offset)?),
            count => Ok(rustix::io::preadv(&self.file, &mut into[..count], offset)?),
        }
    }

    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if let Some(written) = self.direct.as_ref().and_then(|direct| direct.write(&self.file, from, offset)) {
            return Ok(written);
        }
        match whole_slices(from.iter().map(|slice| slice.len())) {
            0 if !from.is_empty() => Ok(rustix::io::pwrite(&self.file, &from[0][..MOST_BYTES], offset)?),
            count => Ok(rustix::io::pwritev(&self.file, &from[..count], offset)?),
        }
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
        use rustix::io::Errno;
        match rustix::fs::fcntl_fullfsync(&self.file) {
            // Any other error says that the data may not be there, which a weaker call would hide.
            Err(Errno::NOTSUP | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => Ok(rustix::fs::fsync(&self.file)?),
            done => Ok(done?),
        }
    }

    #[cfg(not(target_vendor = "apple"))]
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(id_of(&self.file.metadata()?))
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
        // Linux takes no more from one such call than it would read ahead at once, which is 128 KiB by default.
        const AT_ONCE: usize = 128 << 10;
        for start in (offset..offset.saturating_add(bytes)).step_by(AT_ONCE) {
            let length = std::num::NonZeroU64::new((AT_ONCE as u64).min(offset + bytes - start));
            // A hint; what it says does not matter.
            let _ = rustix::fs::fadvise(&self.file, start, length, rustix::fs::Advice::WillNeed);
        }
    }
}

/// A file that is locked until dropped.
#[derive(Debug)]
struct LockFile {
    file: RealFile,
    process: u32,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // The lock is the open file's, which a fork shares: closing it here alone would leave it locked for as long as the
        // fork lives. A fork must not take it from its parent.
        if self.process == std::process::id() {
            let _ = rustix::fs::flock(&self.file.file, FlockOperation::Unlock);
        }
    }
}

impl IoFile for LockFile {
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_at(from, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn id(&self) -> io::Result<FileId> {
        self.file.id()
    }
}
