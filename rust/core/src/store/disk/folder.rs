//! The folder's names: what belongs to a store, and whether a folder is one.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::io::{Access, Entry, Io, IoFile, read_bytes_at, write_bytes_at};
use super::record::StoreId;
use super::{Context as _, DiskError};
use crate::store::types::SegmentId;

pub(super) const LOCK: &str = "store.lock";
pub(super) const STORE: &str = "store.json";
const STORE_NEXT: &str = "store.json.next";
pub(super) const INDEX: &str = "index";
pub(super) const INDEX_NEXT: &str = "index.next";
pub(super) const JOURNAL: &str = "journal";
pub(super) const JOURNAL_NEXT: &str = "journal.next";
pub(super) const SEGMENTS: &str = "segments";

const FORMAT: &str = "hwledger-omlx paged KV store";
/// 2: records with encoded parts, whose codecs the namespaces name.
pub(super) const VERSION: u64 = 2;

/// Where a segment is.
pub(super) fn segment_path(segment: SegmentId) -> String {
    format!("{SEGMENTS}/{:08}.kv", segment.0)
}

/// The segment that a file of the segments' folder is; `None` if none.
pub(super) fn segment_of(name: &str) -> Option<SegmentId> {
    let number = name.strip_suffix(".kv")?;
    // The highest number is never given out, so that there is always a next one.
    let id = number.parse().ok().filter(|id| *id != u32::MAX).map(SegmentId)?;
    (segment_path(id).strip_prefix("segments/") == Some(name)).then_some(id)
}

/// The contents of `store.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    version: u64,
    /// 32 hexadecimal digits.
    store: String,
}

/// What stands in the folder, before anything in it is touched.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or no folder yet.
    Empty,
    /// A store, with its id where `store.json` is readable.
    Store(Option<StoreId>),
}

/// Looks at a folder; leaves it alone.
pub(super) fn look(io: &dyn Io) -> Result<Found, DiskError> {
    let entries = match io.list("") {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Empty),
        Err(error) => return Err(error).context("list the cache folder"),
    };
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    if has(STORE)
        && let Some(id) = read_description(io)?
    {
        return Ok(Found::Store(Some(id)));
    }
    if let Some(what) = foreign(io, &entries)? {
        return Err(DiskError::Foreign { what });
    }
    Ok(if has(STORE) || has(SEGMENTS) || has(INDEX) || has(JOURNAL) { Found::Store(None) } else { Found::Empty })
}

/// What in the folder cannot be ours. A file system's own and hidden files do not count.
fn foreign(io: &dyn Io, entries: &[Entry]) -> Result<Option<String>, DiskError> {
    for entry in entries {
        let name = entry.name.as_str();
        let ours = match name {
            SEGMENTS => {
                let inside = io.list(SEGMENTS).context("list the segments")?;
                let other = inside.iter().find(|entry| !is_hidden(&entry.name) && segment_of(&entry.name).is_none());
                if let Some(other) = other {
                    return Ok(Some(format!("{SEGMENTS} holds {:?}", other.name)));
                }
                entry.is_folder
            }
            LOCK | STORE | STORE_NEXT | INDEX | INDEX_NEXT | JOURNAL | JOURNAL_NEXT => !entry.is_folder,
            _ => is_hidden(name),
        };
        if !ours {
            return Ok(Some(describe(entries, entry)));
        }
    }
    Ok(None)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found"
}

/// oMLX keeps `<hash>.safetensors` in folders named by the hash's first digit, and `_boundary_snapshots`.
fn describe(entries: &[Entry], other: &Entry) -> String {
    let of_fork = |entry: &Entry| {
        let digit = entry.name.len() == 1 && entry.name.chars().all(|digit| digit.is_ascii_hexdigit());
        entry.is_folder && (digit || entry.name == "_boundary_snapshots")
    };
    match entries.iter().find(|entry| of_fork(entry)) {
        Some(folder) => format!("it holds oMLX's own cache (folder {:?})", folder.name),
        None => format!("it holds {:?}", other.name),
    }
}

fn read_description(io: &dyn Io) -> Result<Option<StoreId>, DiskError> {
    let what = "read store.json";
    let file = io.open(STORE, Access::Read).context(what)?;
    let length = usize::try_from(file.bytes().context(what)?.min(64 << 10)).unwrap_or(0);
    let mut text = vec![0; length];
    read_bytes_at(&*file, &mut text, 0).context(what)?;
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&text) else { return Ok(None) };
    if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
        return Err(DiskError::Foreign { what: "its store.json is of another program".to_owned() });
    }
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(VERSION) => {}
        found => return Err(DiskError::Version { found: found.unwrap_or(0), known: VERSION }),
    }
    let Ok(description) = serde_json::from_value::<Description>(value) else { return Ok(None) };
    Ok(id_from_hex(&description.store))
}

/// Writes `store.json`.
pub(super) fn describe_store(io: &dyn Io, store: &StoreId) -> Result<(), DiskError> {
    let description = Description { format: FORMAT.to_owned(), version: VERSION, store: hex(store) };
    let mut text = serde_json::to_vec_pretty(&description).map_err(io::Error::from).context("write store.json")?;
    text.push(b'\n');
    let written = (|| {
        let file = io.open(STORE_NEXT, Access::Create)?;
        write_bytes_at(&*file, &text, 0)?;
        file.sync()?;
        io.rename(STORE_NEXT, STORE)?;
        io.sync_folder("")
    })();
    written.context("write store.json")
}

fn hex(store: &StoreId) -> String {
    use std::fmt::Write as _;
    store.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn id_from_hex(text: &str) -> Option<StoreId> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// A new store's id: what no two stores share, from time, process and an address.
pub(super) fn new_id() -> StoreId {
    let mut hasher = blake3::Hasher::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let place = Box::new(0_u8);
    hasher.update(&now.as_nanos().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&(std::ptr::from_ref(&*place) as usize).to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Who holds the lock.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// Seconds since the Unix epoch.
    since: u64,
}

/// Takes the folder's lock and writes into it who has it.
pub(super) fn lock(io: &dyn Io) -> Result<Arc<dyn IoFile>, DiskError> {
    let what = "lock the cache folder";
    let Some(file) = io.lock(LOCK).context(what)? else {
        return Err(DiskError::InUse { pid: holder(io) });
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let holder = Holder { pid: std::process::id(), since: now.as_secs() };
    let text = serde_json::to_vec(&holder).map_err(io::Error::from).context(what)?;
    // Only for people and messages: on a full disk the lock itself still holds.
    let _ = file.truncate(0).and_then(|()| write_bytes_at(&*file, &text, 0));
    Ok(file)
}

fn holder(io: &dyn Io) -> Option<u32> {
    let file = io.open(LOCK, Access::Read).ok()?;
    let mut text = vec![0; usize::try_from(file.bytes().ok()?.min(4096)).ok()?];
    read_bytes_at(&*file, &mut text, 0).ok()?;
    serde_json::from_slice::<Holder>(&text).ok().map(|holder| holder.pid)
}
