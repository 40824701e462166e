//! Which model a cached prefix belongs to: a digest of what the model's folder says and holds, and the key of a namespace.
//!
//! KV bytes are right only for the very weights, tokenizer, settings and format that made them. A path says none of that:
//! new weights at an old path must not meet old blocks. So the content is hashed, all of it, and a memo keeps the digests of
//! files that have not changed since.

mod files;
mod memo;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::store::types::NamespaceKey;
use files::Source;
use memo::Memo;

/// What a model's files are, in 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// BLAKE3 over the names, lengths and contents of all files that matter.
    pub digest: [u8; 32],
    /// How many files these are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, bytes that had to be read: the others' digests were in the memo.
    pub hashed_bytes: u64,
}

/// Why a model has no fingerprint.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was written to while it was read.
    #[error("{} changed while it was read", .path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// There is nothing in the folder that could be a model or an adapter.
    #[error("no weights in {}", .path.display())]
    NoWeights {
        /// Which.
        path: PathBuf,
    },
}

/// The fingerprint of a model's folder (or of its one file), and of an adapter's if there is one.
///
/// What counts: the weights (`.safetensors`, `.npz`, `.gguf`, `.bin`, `.pt`, `.pth`), the settings (`.json`), the tokenizer's
/// files and the model's own code (`.py`), in the folder itself, symbolic links followed. What does not: what only says how
/// to sample or how to word a prompt (`generation_config.json`, chat templates, also those inside
/// `tokenizer_config.json`), and all else, such as a README. All of the content is read, by several threads, unless `memo`
/// (a file of ours, made when missing, ignored when damaged) knows the file by device, inode, size and times.
///
/// # Errors
/// [`IdentityError`]. A memo that cannot be read or written is none.
pub fn fingerprint(folder: &Path, adapter: Option<&Path>, memo: Option<&Path>) -> Result<Fingerprint, IdentityError> {
    fingerprint_at(folder, adapter, memo, SystemTime::now())
}

fn fingerprint_at(
    folder: &Path,
    adapter: Option<&Path>,
    memo: Option<&Path>,
    now: SystemTime,
) -> Result<Fingerprint, IdentityError> {
    let mut sources = files::sources_in(folder, "model")?;
    if let Some(adapter) = adapter {
        sources.extend(files::sources_in(adapter, "adapter")?);
    }
    let mut known = memo.map(Memo::read).unwrap_or_default();
    let mut digests: Vec<Option<[u8; 32]>> = sources.iter().map(|source| known.find(source)).collect();
    let missing: Vec<usize> = (0..sources.len()).filter(|source| digests[*source].is_none()).collect();
    let unread: Vec<&Source> = missing.iter().map(|source| &sources[*source]).collect();
    for (source, digest) in missing.iter().zip(files::digest_all(&unread)?) {
        known.add(&sources[*source], digest, now);
        digests[*source] = Some(digest);
    }
    if let Some(path) = memo {
        known.write_if_changed(path);
    }

    let mut hasher = blake3::Hasher::new_derive_key("hwledger-omlx 2026-11 fingerprint of a model folder");
    for (source, digest) in sources.iter().zip(digests.iter().flatten()) {
        add_field(&mut hasher, source.role, source.name.as_encoded_bytes());
        hasher.update(&source.bytes.to_le_bytes());
        hasher.update(digest);
    }
    Ok(Fingerprint {
        digest: *hasher.finalize().as_bytes(),
        files: sources.len() as u64,
        bytes: sources.iter().map(|source| source.bytes).sum(),
        hashed_bytes: unread.iter().map(|source| source.bytes).sum(),
    })
}

/// The key of a namespace: what its blocks depend on, as labelled fields in a fixed order (weights' digest, architecture and
/// `RoPE` settings, adapter, KV format, device kind, tenant, …). Labels and values are prefixed with their length, so
/// no two lists of fields give the same key.
pub fn namespace_key<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> NamespaceKey {
    let mut hasher = blake3::Hasher::new_derive_key("hwledger-omlx 2026-11 key of a KV namespace");
    for (label, value) in fields {
        add_field(&mut hasher, label, value);
    }
    NamespaceKey(*hasher.finalize().as_bytes())
}

fn add_field(hasher: &mut blake3::Hasher, label: &str, value: &[u8]) {
    hasher.update(&(label.len() as u64).to_le_bytes());
    hasher.update(label.as_bytes());
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value);
}
