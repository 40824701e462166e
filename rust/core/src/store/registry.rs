//! The stores that this process has open, so that a folder opened twice is one store and never two that fight over it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::error::StoreError;
use super::handle::Store;

/// A store that was opened by its folder.
struct Entry {
    folder: PathBuf,
    store: Weak<Store>,
    ended: Arc<Ended>,
    /// A fork inherits the list, not the stores.
    process: u32,
}

static OPEN: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Whether a store has given its folder back.
#[derive(Debug, Default)]
pub(super) struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    /// It has.
    pub(super) fn set(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has.
    fn wait(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What tells a folder, by whatever path it is reached. Asked anew each time: a folder that was deleted leaves its number to
/// another, and a store makes its own anew.
#[cfg(unix)]
fn identify(folder: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identify(folder: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(folder).ok()
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || identify(one).is_some_and(|folder| identify(other) == Some(folder))
}

/// The store of the folder that is open already, or what `open` gives. Waits for one that is being closed.
pub(super) fn open(
    folder: &Path,
    open: impl FnOnce() -> Result<Arc<Store>, StoreError>,
) -> Result<Arc<Store>, StoreError> {
    loop {
        // Held while the store opens, so that two first opens of one folder do not race.
        let mut stores = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        stores.retain(|entry| entry.process == process && !entry.ended.is_set());
        let Some(entry) = stores.iter().find(|entry| is_same(&entry.folder, folder)) else {
            let store = open()?;
            let ended = store.ended();
            stores.push(Entry { folder: folder.to_owned(), store: Arc::downgrade(&store), ended, process });
            return Ok(store);
        };
        if let Some(store) = entry.store.upgrade()
            && store.share()
        {
            return Ok(store);
        }
        let ended = Arc::clone(&entry.ended);
        drop(stores);
        ended.wait();
    }
}
