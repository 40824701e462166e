//! The opening of a store, which Ctrl-C may end, and which waits for one that is just being closed.

use std::sync::Arc;

use hwledger_omlx_core::store as core;
use pyo3::prelude::*;

use crate::entry::interruptible;
use crate::open_stores::closing_in;

/// Opens the store of `config`.
pub(crate) fn open(py: Python<'_>, config: &core::StoreConfig) -> PyResult<Arc<core::Store>> {
    let mut last_try = false;
    loop {
        let closing = closing_in(&config.folder);
        let none_closes = closing.is_empty();
        let config = config.clone();
        let opened = interruptible(py, move || {
            for each in closing {
                each.wait_closed();
            }
            match core::Store::open(config) {
                // Another thread of this process began or ended closing it meanwhile.
                Err(core::StoreError::InUse { pid, .. }) if pid == std::process::id() && !last_try => Ok(None),
                opened => opened.map(|store| Some(Opened(Some(store)))),
            }
        })?;
        if let Some(store) = opened.and_then(|mut opened| opened.0.take()) {
            return Ok(store);
        }
        last_try = none_closes;
    }
}

/// A store that nobody has yet, and that is closed again if nobody comes for it.
struct Opened(Option<Arc<core::Store>>);

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(store) = self.0.take() {
            // Not here: this may be attached, and another opening of the same store may have threads that wait for that.
            let _ = std::thread::Builder::new().name("hwledger-close".to_owned()).spawn(move || store.close());
        }
    }
}
