//! The files of a model that matter, and their digests: read in pieces by several threads.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::IdentityError;

const WEIGHTS: [&str; 6] = ["safetensors", "npz", "gguf", "bin", "pt", "pth"];
const SETTINGS: [&str; 7] = ["json", "py", "model", "tiktoken", "spm", "vocab", "jsonl"];
const NAMED: [&str; 2] = ["merges.txt", "vocab.txt"];
/// How to sample and how to word a prompt change no KV of given tokens.
const IGNORED: [&str; 2] = ["generation_config.json", "chat_template.json"];
const WITH_CHAT_TEMPLATE: &str = "tokenizer_config.json";

/// What one thread hashes at a time. Also part of what a digest means: a file's is that of its pieces' digests.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;
/// Stays in the cache between reading and hashing.
const BUFFER_BYTES: usize = 512 * 1024;
const MOST_THREADS: usize = 16;

/// A file that matters.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) name: OsString,
    /// Whose it is: the model's or the adapter's.
    pub(super) role: &'static str,
    pub(super) bytes: u64,
    /// Its digest leaves the chat template out.
    pub(super) without_chat_template: bool,
    pub(super) metadata: Metadata,
}

/// What matters of a folder, or one file, by name.
pub(super) fn sources_in(folder: &Path, role: &'static str) -> Result<Vec<Source>, IdentityError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Read { path, source }
    };
    let mut sources = Vec::new();
    if fs::metadata(folder).map_err(failed(folder))?.is_file() {
        sources.push(source_at(folder.to_owned(), role).map_err(failed(folder))?);
    } else {
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let path = entry.map_err(failed(folder))?.path();
            if matters(&path) {
                sources.push(source_at(path.clone(), role).map_err(failed(&path))?);
            }
        }
    }
    sources.retain(|source| source.metadata.is_file());
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    if sources.iter().any(|source| has_extension(&source.path, &WEIGHTS)) {
        Ok(sources)
    } else {
        Err(IdentityError::NoWeights { path: folder.to_owned() })
    }
}

fn source_at(path: PathBuf, role: &'static str) -> std::io::Result<Source> {
    // Follows links: shards often are links into a hub's blobs.
    let metadata = fs::metadata(&path)?;
    let name = path.file_name().unwrap_or_default().to_owned();
    let without_chat_template = name == WITH_CHAT_TEMPLATE;
    Ok(Source { name, role, bytes: metadata.len(), without_chat_template, metadata, path })
}

fn matters(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.')
        && !IGNORED.contains(&&*name)
        && (has_extension(path, &WEIGHTS) || has_extension(path, &SETTINGS) || NAMED.contains(&&*name))
}

fn has_extension(path: &Path, of: &[&str]) -> bool {
    path.extension().is_some_and(|extension| of.iter().any(|one| extension.eq_ignore_ascii_case(one)))
}

/// The digests of files, in their order.
pub(super) fn digest_all(sources: &[&Source]) -> Result<Vec<[u8; 32]>, IdentityError> {
    let mut pieces = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        // An empty file is one empty piece; a file without its chat template is read whole.
        let count = if source.without_chat_template { 1 } else { source.bytes.div_ceil(PIECE_BYTES).max(1) };
        pieces.extend((0..count).map(|piece| (number, piece * PIECE_BYTES)));
    }
    let digests = digest_pieces(sources, &pieces)?;
    for source in sources {
        let unchanged = fs::metadata(&source.path).is_ok_and(|now| is_same(&source.metadata, &now));
        if !unchanged {
            return Err(IdentityError::Changed { path: source.path.clone() });
        }
    }
    let mut files = vec![blake3::Hasher::new(); sources.len()];
    for ((number, _), digest) in pieces.iter().zip(&digests) {
        files[*number].update(digest);
    }
    Ok(files.iter().map(|hasher| *hasher.finalize().as_bytes()).collect())
}

fn digest_pieces(sources: &[&Source], pieces: &[(usize, u64)]) -> Result<Vec<[u8; 32]>, IdentityError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let digests = Mutex::new(vec![[0; 32]; pieces.len()]);
    let work = || {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            let Some((number, offset)) = pieces.get(piece) else { return Ok(()) };
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            match digest_piece(sources[*number], *offset, &mut buffer) {
                Ok(digest) => digests.lock().unwrap_or_else(PoisonError::into_inner)[piece] = digest,
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(pieces.len());
    thread::scope(|scope| {
        // This thread works too; where no other can be started it works alone.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().name("fingerprint".to_owned()).spawn_scoped(scope, work).ok())
            .collect();
        let mut result = work();
        for other in others {
            match other.join() {
                Ok(theirs) => result = result.and(theirs),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })?;
    Ok(digests.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn digest_piece(source: &Source, offset: u64, buffer: &mut [u8]) -> Result<[u8; 32], IdentityError> {
    let failed = |error: std::io::Error| {
        let path = source.path.clone();
        if error.kind() == ErrorKind::UnexpectedEof {
            IdentityError::Changed { path }
        } else {
            IdentityError::Read { path, source: error }
        }
    };
    if source.without_chat_template {
        let content = fs::read(&source.path).map_err(failed)?;
        return Ok(*blake3::hash(&without_chat_template(content)).as_bytes());
    }
    let mut file = File::open(&source.path).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut left = PIECE_BYTES.min(source.bytes - offset);
    let mut hasher = blake3::Hasher::new();
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..length]).map_err(failed)?;
        hasher.update(&buffer[..length]);
        left -= length as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The settings of a tokenizer apart from the wording of prompts; as they are if they are no JSON object.
fn without_chat_template(content: Vec<u8>) -> Vec<u8> {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(&content) else { return content };
    fields.remove("chat_template");
    serde_json::to_vec(&fields).unwrap_or(content)
}

#[cfg(unix)]
fn is_same(before: &Metadata, now: &Metadata) -> bool {
    super::memo::Stamp::of(before) == super::memo::Stamp::of(now)
}

#[cfg(not(unix))]
fn is_same(before: &Metadata, now: &Metadata) -> bool {
    before.len() == now.len() && before.modified().ok() == now.modified().ok()
}
