//! The stores that this process has open, so that a folder opened twice is one store and never two that fight over it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::error::StoreError;
use super::handle::Store;

/// What tells a folder, by whatever path it is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Identity {
    #[cfg(unix)]
    Inode { device: u64, inode: u64 },
    #[cfg_attr(unix, expect(dead_code, reason = "where there are no inodes"))]
    Path(PathBuf),
}

static OPEN: Mutex<Option<HashMap<Identity, Weak<Store>>>> = Mutex::new(None);

#[cfg(unix)]
fn identify(folder: &Path) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(folder)?;
    Ok(Identity::Inode { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(not(unix))]
fn identify(folder: &Path) -> std::io::Result<Identity> {
    std::fs::canonicalize(folder).map(Identity::Path)
}

/// The store of the folder that is open already, or what `open` gives.
pub(super) fn open(
    folder: &Path,
    open: impl FnOnce() -> Result<Arc<Store>, StoreError>,
) -> Result<Arc<Store>, StoreError> {
    // Held while the store opens, so that two first opens of one folder do not race.
    let mut stores = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let stores = stores.get_or_insert_default();
    stores.retain(|_, store| store.strong_count() > 0);
    if let Some(store) = identify(folder).ok().and_then(|identity| stores.get(&identity)?.upgrade())
        && store.share()
    {
        return Ok(store);
    }
    let store = open()?;
    if let Ok(identity) = identify(folder) {
        stores.insert(identity, Arc::downgrade(&store));
    }
    Ok(store)
}
