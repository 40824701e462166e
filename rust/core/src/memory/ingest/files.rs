//! Small files and beginnings of large ones, read with a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::IngestError;

/// All of a file, if it is no larger than that.
pub(super) fn read_at_most(path: &Path, at_most: u64) -> Result<Vec<u8>, IngestError> {
    let failed = |source| IngestError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > at_most {
        return Err(IngestError::TooLarge { path: path.to_owned(), bytes, at_most });
    }
    let mut read = Vec::new();
    file.take(at_most).read_to_end(&mut read).map_err(failed)?;
    Ok(read)
}
