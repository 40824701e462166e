//! Digests of files already read, in one small file that is never trusted blindly.
//!
//! Format, little-endian: 8 bytes of magic; entries of 80 bytes (device, inode, size, mtime and ctime in ns, kind: 8 bytes
//! each; digest: 32); the BLAKE3 digest of all before.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::Source;

const MAGIC: [u8; 8] = *b"hwl-fpr1";
const ENTRY_BYTES: usize = 80;
const DIGEST_BYTES: usize = 32;
/// More than any collection of models has shards; the memo stays under 5 MB.
const MOST_ENTRIES: usize = 65_536;

/// A file could change again within the grain of its times, unseen, so what has just changed is not remembered. Linux
/// advances them at each tick (10 ms at most); some file systems keep whole seconds or two.
const FINE_GRAIN: Duration = Duration::from_millis(50);
const COARSE_GRAIN: Duration = Duration::from_secs(3);

/// What tells that a file is still the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Stamp {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let nanoseconds = |seconds: i64, rest: i64| seconds.checked_mul(1_000_000_000)?.checked_add(rest);
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec())?,
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec())?,
        })
    }

    /// Nothing tells it surely here.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Option<Self> {
        None
    }

    /// Whether a later change would be seen in the times.
    fn is_settled(&self, now: SystemTime) -> bool {
        let changed_ns = self.changed_ns.max(self.modified_ns);
        let grain = if changed_ns % 1_000_000_000 == 0 { COARSE_GRAIN } else { FINE_GRAIN };
        let changed = UNIX_EPOCH + Duration::from_nanos(u64::try_from(changed_ns).unwrap_or(0));
        now.duration_since(changed).is_ok_and(|age| age >= grain)
    }
}

/// Digests by stamp and by how the digest was made.
#[derive(Debug, Default)]
pub(super) struct Memo {
    digests: BTreeMap<(Stamp, u64), [u8; DIGEST_BYTES]>,
    changed: bool,
}

impl Memo {
    /// What the file says; nothing if it is missing or damaged.
    pub(super) fn read(path: &Path) -> Self {
        let digests = fs::read(path).ok().and_then(|content| parse(&content)).unwrap_or_default();
        Self { digests, changed: false }
    }

    pub(super) fn find(&self, source: &Source) -> Option<[u8; DIGEST_BYTES]> {
        self.digests.get(&key_of(source)?).copied()
    }

    pub(super) fn add(&mut self, source: &Source, digest: [u8; DIGEST_BYTES], now: SystemTime) {
        let Some(key) = key_of(source).filter(|(stamp, _)| stamp.is_settled(now)) else { return };
        // An inode is one file: what it was before is not asked for again.
        let (stamp, kind) = key;
        self.digests.retain(|(known, of), _| (known.device, known.inode, *of) != (stamp.device, stamp.inode, kind));
        if self.digests.len() >= MOST_ENTRIES {
            self.digests.clear();
        }
        self.digests.insert(key, digest);
        self.changed = true;
    }

    /// Replaces the file at once. A memo that cannot be written costs the next load's time, nothing else.
    pub(super) fn write_if_changed(&self, path: &Path) {
        if !self.changed {
            return;
        }
        let mut content = MAGIC.to_vec();
        for ((stamp, kind), digest) in &self.digests {
            for word in [stamp.device, stamp.inode, stamp.bytes] {
                content.extend_from_slice(&word.to_le_bytes());
            }
            content.extend_from_slice(&stamp.modified_ns.to_le_bytes());
            content.extend_from_slice(&stamp.changed_ns.to_le_bytes());
            content.extend_from_slice(&kind.to_le_bytes());
            content.extend_from_slice(digest);
        }
        let check = blake3::hash(&content);
        content.extend_from_slice(check.as_bytes());
        let mut own_name = path.file_name().unwrap_or_default().to_owned();
        own_name.push(format!(".{}", std::process::id()));
        let own = path.with_file_name(own_name);
        let written = fs::write(&own, &content).and_then(|()| fs::rename(&own, path));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "the memo of fingerprints cannot be written");
            // Whatever of it was written is of no use; if there is nothing, that is as well.
            let _ = fs::remove_file(&own);
        }
    }
}

fn key_of(source: &Source) -> Option<(Stamp, u64)> {
    Some((Stamp::of(&source.metadata)?, u64::from(source.without_chat_template)))
}

fn parse(content: &[u8]) -> Option<BTreeMap<(Stamp, u64), [u8; DIGEST_BYTES]>> {
    let (content, check) = content.split_last_chunk::<DIGEST_BYTES>()?;
    if blake3::hash(content) != *check {
        return None;
    }
    let (entries, rest) = content.strip_prefix(&MAGIC)?.as_chunks::<ENTRY_BYTES>();
    rest.is_empty().then(|| entries.iter().map(parse_entry).collect())
}

fn parse_entry(entry: &[u8; ENTRY_BYTES]) -> ((Stamp, u64), [u8; DIGEST_BYTES]) {
    let word = |number: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&entry[8 * number..8 * number + 8]);
        bytes
    };
    let unsigned = |number| u64::from_le_bytes(word(number));
    let stamp = Stamp {
        device: unsigned(0),
        inode: unsigned(1),
        bytes: unsigned(2),
        modified_ns: i64::from_le_bytes(word(3)),
        changed_ns: i64::from_le_bytes(word(4)),
    };
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&entry[48..]);
    ((stamp, unsigned(5)), digest)
}
