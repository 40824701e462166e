//! A disk in memory that fails on request, for tests: see [`FaultyIo`].
//!
//! It keeps two pictures: what processes see, and what would be left after a power loss. A sync moves a file's contents,
//! or a folder's names, from one to the other; [`FaultyIo::crash`] lets an arbitrary part of the rest through.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::io::{Access, Entry, FileId, Io, IoFile};

/// What an operation suffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Fails with EIO.
    Eio,
    /// Fails with ENOSPC.
    Enospc,
    /// Fails with EROFS.
    ReadOnly,
    /// Fails with EACCES.
    Denied,
    /// Fails with ENOENT, as in a folder deleted from outside.
    Gone,
    /// Reads or writes about half of what is asked and says so.
    Short,
    /// Writes about half of what is asked, then fails with EIO.
    Torn,
    /// Reads with one bit flipped, or writes it flipped to the disk.
    FlipBit,
}

/// Which operations a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// [`IoFile::read_at`].
    Read,
    /// [`IoFile::write_at`].
    Write,
    /// [`IoFile::sync`] and [`Io::sync_folder`].
    Sync,
    /// Opening, looking up, listing, making, renaming, removing, truncating.
    Names,
    /// All of these.
    Any,
}

#[derive(Debug)]
struct Injected {
    operation: Operation,
    path: String,
    fault: Fault,
    skip: u64,
    times: u64,
}

/// A change of a file's contents that is not synced.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write_into(contents, *offset, bytes),
            Self::Truncate(bytes) => contents.resize(*bytes, 0),
        }
    }
}

fn write_into(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

/// A file's contents, by its number.
#[derive(Clone, Debug, Default)]
struct Inode {
    contents: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

/// A change of names that is not synced.
#[derive(Clone, Debug)]
enum Renaming {
    Make(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Make(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn folder(&self) -> &str {
        let (Self::Make(path, _) | Self::Rename(_, path) | Self::Remove(path)) = self;
        folder_of(path)
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Renaming>,
    folders: BTreeSet<String>,
    next_inode: u64,
    faults: Vec<Injected>,
    capacity: Option<u64>,
    changes_left: Option<u64>,
    off: bool,
    locked: BTreeSet<String>,
    /// Moves on with every choice that a fault makes.
    choices: u64,
}

/// The simulated folder. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultyIo(Arc<Mutex<State>>);

fn eio() -> io::Error {
    // EIO is 5 on every Unix; rustix has no value for it on other systems.
    io::Error::from_raw_os_error(5)
}

/// A sequence of numbers that depends on the seed only (`SplitMix64`: Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % sides.max(1) as u64).unwrap_or(0)
    }
}

impl State {
    /// The fault that strikes this operation, if one does; `changes`: whether it changes the disk.
    fn struck(&mut self, operation: Operation, path: &str, changes: bool) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(eio());
        }
        if changes && let Some(left) = &mut self.changes_left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None if operation == Operation::Write => {
                    // The write under way is torn; nothing comes after it.
                    self.off = true;
                    return Ok(Some(Fault::Torn));
                }
                None => {
                    self.off = true;
                    return Err(eio());
                }
            }
        }
        let meant = |fault: &Injected| matches!(fault.operation, Operation::Any) || fault.operation == operation;
        let Some(fault) = self.faults.iter_mut().find(|fault| meant(fault) && path.contains(&fault.path)) else {
            return Ok(None);
        };
        if fault.skip > 0 {
            fault.skip -= 1;
            return Ok(None);
        }
        let kind = fault.fault;
        fault.times -= 1;
        self.faults.retain(|fault| fault.times > 0);
        match kind {
            Fault::Eio => Err(eio()),
            Fault::Enospc => Err(io::ErrorKind::StorageFull.into()),
            Fault::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Fault::Denied => Err(io::ErrorKind::PermissionDenied.into()),
            Fault::Gone => Err(io::ErrorKind::NotFound.into()),
            Fault::Short | Fault::Torn | Fault::FlipBit => Ok(Some(kind)),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].contents.len() as u64).sum()
    }

    fn rename_now(&mut self, change: Renaming) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.choices += 1;
        Dice(self.choices).roll(sides)
    }
}

impl FaultyIo {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `times` operations of that kind on paths that contain `path` suffer the fault, after `skip` good ones.
    pub fn inject(&self, operation: Operation, path: &str, fault: Fault, skip: u64, times: u64) {
        if times > 0 {
            self.state().faults.push(Injected { operation, path: path.to_owned(), fault, skip, times });
        }
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.capacity = None;
    }

    /// Writes beyond this many bytes in all files fail with ENOSPC; also what `free_bytes` counts from.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = Some(bytes);
    }

    /// After this many more operations that change the disk, every operation fails: the machine has lost power. If the
    /// next one is a write, it is torn.
    pub fn power_off_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Whether that moment has come.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// The disk after a power loss now: what was synced, and of all other writes and names an arbitrary subset (chosen by
    /// `seed`), writes torn at any byte. Old handles of `self` fail from here on; the lock is free.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut state = self.state();
        state.off = true;
        let mut names = state.synced_names.clone();
        for change in &state.unsynced_names {
            if dice.roll(2) == 0 {
                change.apply(&mut names);
            }
        }
        let survive = |inode: &Inode, dice: &mut Dice| {
            let mut contents = inode.synced.clone();
            // Whole files often make it or fail as one; otherwise every change has its own fate.
            let mood = dice.roll(4);
            for change in &inode.unsynced {
                let fate = if mood < 2 { mood } else { dice.roll(3) };
                match (fate, change) {
                    (0, _) => {}
                    (1, _) => change.apply(&mut contents),
                    (_, Change::Write(offset, bytes)) => {
                        let from = dice.roll(bytes.len() + 1);
                        let to = from + dice.roll(bytes.len() - from + 1);
                        let from = if dice.roll(2) == 0 { 0 } else { from };
                        write_into(&mut contents, offset + from, &bytes[from..to]);
                    }
                    (_, Change::Truncate(_)) => {}
                }
            }
            contents
        };
        let kept: Vec<(String, Vec<u8>)> =
            names.iter().map(|(path, inode)| (path.clone(), survive(&state.inodes[inode], &mut dice))).collect();
        Self::with(kept, state.folders.clone())
    }

    /// The disk after a SIGKILL now: everything written is there. Old handles fail from here on; the lock is free.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut state = self.state();
        state.off = true;
        let kept = state.names.iter().map(|(path, inode)| (path.clone(), state.inodes[inode].contents.clone()));
        Self::with(kept.collect(), state.folders.clone())
    }

    fn with(files: Vec<(String, Vec<u8>)>, folders: BTreeSet<String>) -> Self {
        let io = Self::new();
        io.state().folders = folders;
        for (path, contents) in files {
            io.replace(&path, Some(contents));
        }
        io
    }

    /// A file's contents as a process would read them.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|inode| state.inodes[inode].contents.clone())
    }

    /// Puts a file there, durably (or removes it with `None`).
    pub fn replace(&self, path: &str, contents: Option<Vec<u8>>) {
        let mut state = self.state();
        state.names.remove(path);
        state.synced_names.remove(path);
        let Some(contents) = contents else { return };
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode { synced: contents.clone(), contents, unsynced: Vec::new() });
        state.names.insert(path.to_owned(), inode);
        state.synced_names.insert(path.to_owned(), inode);
        let mut folder = folder_of(path).to_owned();
        while !folder.is_empty() {
            state.folders.insert(folder.clone());
            folder = folder_of(&folder).to_owned();
        }
    }

    /// All files' paths.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state().used()
    }

    fn file(&self, path: &str, inode: u64, locks: bool) -> Arc<dyn IoFile> {
        Arc::new(FaultyFile { io: self.clone(), path: path.to_owned(), inode, locks })
    }
}

impl Io for FaultyIo {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.struck(Operation::Names, path, true)?;
        state.folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut state = self.state();
        state.struck(Operation::Names, path, false)?;
        if !path.is_empty() && !state.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |name: &str| folder_of(name) == path && !name.is_empty();
        let name_of = |name: &str| name.rsplit_once('/').map_or(name, |(_, name)| name).to_owned();
        let files = state.names.iter().filter(|(name, _)| inside(name)).map(|(name, inode)| Entry {
            name: name_of(name),
            is_folder: false,
            bytes: state.inodes[inode].contents.len() as u64,
        });
        let folders = state.folders.iter().filter(|name| inside(name));
        Ok(files.chain(folders.map(|name| Entry { name: name_of(name), is_folder: true, bytes: 0 })).collect())
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn IoFile>> {
        let mut state = self.state();
        state.struck(Operation::Names, path, matches!(access, Access::Create | Access::CreateNew))?;
        let inode = match (state.names.get(path).copied(), access) {
            (Some(inode), Access::Read | Access::Write) => inode,
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), Access::Create) => {
                if let Some(inode) = state.inodes.get_mut(&inode) {
                    inode.contents.clear();
                    inode.unsynced.push(Change::Truncate(0));
                }
                inode
            }
            (None, Access::Read | Access::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Access::Create | Access::CreateNew) => {
                if !state.folders.contains(folder_of(path)) && !folder_of(path).is_empty() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.rename_now(Renaming::Make(path.to_owned(), inode));
                inode
            }
        };
        drop(state);
        Ok(self.file(path, inode, false))
    }

    fn file_id(&self, path: &str) -> io::Result<FileId> {
        let mut state = self.state();
        state.struck(Operation::Names, path, false)?;
        let inode = state.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(FileId { device: 0, inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.struck(Operation::Names, to, true)?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename_now(Renaming::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.struck(Operation::Names, path, true)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename_now(Renaming::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.struck(Operation::Sync, path, true)?;
        let (synced, later) = std::mem::take(&mut state.unsynced_names).into_iter().partition(|c| c.folder() == path);
        state.unsynced_names = later;
        let synced: Vec<Renaming> = synced;
        for change in &synced {
            change.apply(&mut state.synced_names);
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.struck(Operation::Read, "", false)?;
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, path: &str) -> io::Result<Option<Arc<dyn IoFile>>> {
        let file = if self.state().names.contains_key(path) {
            self.open(path, Access::Write)?
        } else {
            self.open(path, Access::Create)?
        };
        drop(file);
        let mut state = self.state();
        let Some(inode) = state.names.get(path).copied() else { return Err(io::ErrorKind::NotFound.into()) };
        if !state.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        drop(state);
        Ok(Some(self.file(path, inode, true)))
    }
}

#[derive(Debug)]
struct FaultyFile {
    io: FaultyIo,
    path: String,
    inode: u64,
    locks: bool,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        if self.locks {
            self.io.state().locked.remove(&self.path);
        }
    }
}

impl IoFile for FaultyFile {
    fn read_at(&self, into: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut state = self.io.state();
        let fault = state.struck(Operation::Read, &self.path, false)?;
        let flip = state.roll(1 << 20);
        let contents = &state.inodes[&self.inode].contents;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let asked: usize = into.iter().map(|slice| slice.len()).sum();
        let mut count = asked.min(contents.len() - offset);
        if fault == Some(Fault::Short) && count > 1 {
            count = count.div_ceil(2);
        }
        let mut from = contents[offset..offset + count].to_vec();
        if fault == Some(Fault::FlipBit) && count > 0 {
            from[flip % count] ^= 1 << (flip % 8);
        }
        let mut rest = from.as_slice();
        for slice in into {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            rest = later;
        }
        Ok(count)
    }

    fn write_at(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut state = self.io.state();
        let fault = state.struck(Operation::Write, &self.path, true)?;
        let mut bytes: Vec<u8> = from.iter().flat_map(|slice| slice.iter().copied()).collect();
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if matches!(fault, Some(Fault::Short | Fault::Torn)) && bytes.len() > 1 {
            let half = 1 + state.roll(bytes.len() - 1);
            bytes.truncate(half);
        }
        if fault == Some(Fault::FlipBit) && !bytes.is_empty() {
            let flip = state.roll(bytes.len() * 8);
            bytes[flip / 8] ^= 1 << (flip % 8);
        }
        let used = state.used();
        let grows = (offset + bytes.len()).saturating_sub(state.inodes[&self.inode].contents.len());
        if state.capacity.is_some_and(|capacity| grows > 0 && used + grows as u64 > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            write_into(&mut inode.contents, offset, &bytes);
            inode.unsynced.push(Change::Write(offset, bytes.clone()));
        }
        if fault == Some(Fault::Torn) { Err(eio()) } else { Ok(bytes.len()) }
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut state = self.io.state();
        state.struck(Operation::Read, &self.path, false)?;
        Ok(state.inodes[&self.inode].contents.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.io.state();
        state.struck(Operation::Names, &self.path, true)?;
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.contents.resize(bytes, 0);
            inode.unsynced.push(Change::Truncate(bytes));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.io.state();
        state.struck(Operation::Sync, &self.path, true)?;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            for change in std::mem::take(&mut inode.unsynced) {
                change.apply(&mut inode.synced);
            }
        }
        Ok(())
    }

    fn id(&self) -> io::Result<FileId> {
        Ok(FileId { device: 0, inode: self.inode })
    }
}
