//! The file operations that the store needs, scoped to its folder, so that tests can put a failing disk beneath it.
//!
//! Paths are relative to the folder, with `/`. An [`Io`] keeps no state of the store.

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

/// Slices of one system call: `IOV_MAX` of Linux and macOS.
pub(super) const MOST_SLICES: usize = 1024;

/// How [`Io::open`] opens a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing, made or emptied first.
    Create,
    /// For reading and writing, made; there must be none of the name.
    CreateNew,
}

/// What tells a file from every other one that exists now, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file's number in it. Given again once the file has neither a name nor a handle.
    pub inode: u64,
}

/// One entry of a folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Bytes of a file; 0 for a folder.
    pub bytes: u64,
}

/// A folder.
pub trait Io: Send + Sync + Debug + 'static {
    /// Makes the folder itself (`path` empty, with its parents) or one in it. An existing one is fine.
    ///
    /// # Errors
    /// What the system says.
    fn create_folder(&self, path: &str) -> io::Result<()>;

    /// The entries of the folder (`path` empty) or one in it, in any order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// Opens a file.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn IoFile>>;

    /// Which file a path leads to now.
    ///
    /// # Errors
    /// What the system says.
    fn file_id(&self, path: &str) -> io::Result<FileId>;

    /// Renames a file, replacing what is there.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Unlinks a file; open handles stay good.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&self, path: &str) -> io::Result<()>;

    /// Bytes that the file system still has for this process.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Opens (or makes) a file and locks it against every other open of it; `None` if another has it. The lock ends when
    /// the file is dropped.
    ///
    /// # Errors
    /// What the system says.
    fn lock(&self, path: &str) -> io::Result<Option<Arc<dyn IoFile>>>;
}

/// An open file. Offsets and lengths in bytes.
pub trait IoFile: Send + Sync + Debug {
    /// Reads into the slices in order; may read less, 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;

    /// Writes the slices in order; may write less.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// The file's length.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self) -> io::Result<u64>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Waits until contents and length are durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Which file it is.
    ///
    /// # Errors
    /// What the system says.
    fn id(&self) -> io::Result<FileId>;

    /// Starts writing a range back; a hint.
    fn start_writeback(&self, _offset: u64, _bytes: u64) {}

    /// Starts reading a range ahead; a hint.
    fn prefetch(&self, _offset: u64, _bytes: u64) {}
}

/// Whether a path leads to this file: what is written to one that has lost its name is lost, and what has its name now is
/// another's.
pub(super) fn leads_to(io: &dyn Io, path: &str, file: &dyn IoFile) -> io::Result<bool> {
    match io.file_id(path) {
        Ok(id) => Ok(id == file.id()?),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads until the slices are full.
pub(super) fn read_exact_at(file: &dyn IoFile, mut into: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
    IoSliceMut::advance_slices(&mut into, 0);
    while !into.is_empty() {
        let count = into.len().min(MOST_SLICES);
        match file.read_at(&mut into[..count], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                IoSliceMut::advance_slices(&mut into, read);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a whole byte string.
pub(super) fn read_bytes_at(file: &dyn IoFile, into: &mut [u8], offset: u64) -> io::Result<()> {
    read_exact_at(file, &mut [IoSliceMut::new(into)], offset)
}

/// Writes until the slices are empty.
pub(super) fn write_all_at(file: &dyn IoFile, mut from: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut from, 0);
    while !from.is_empty() {
        match file.write_at(&from[..from.len().min(MOST_SLICES)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut from, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a whole byte string.
pub(super) fn write_bytes_at(file: &dyn IoFile, from: &[u8], offset: u64) -> io::Result<()> {
    write_all_at(file, &mut [IoSlice::new(from)], offset)
}
