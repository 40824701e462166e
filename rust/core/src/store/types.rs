//! The words that the store's rooms share: namespaces, layouts, records and where they are.

use serde::{Deserialize, Serialize};

use crate::quant::Codec;

/// Tokens of a full block. A block never crosses a multiple of this.
pub const BLOCK_TOKENS: usize = 256;

/// What a tree of prefixes belongs to: the BLAKE3 digest of model, format and tenant. Compared in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NamespaceKey(pub [u8; 32]);

/// One array that has a slice for each token: `rows` (heads) × tokens × `row_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartLayout {
    /// Slices of one token: its heads.
    pub rows: u32,
    /// Bytes of one token in one row, in the caller's memory.
    pub row_bytes: u32,
    /// How it is kept, in RAM and on disk; `None`: as it is in the caller's memory.
    pub codec: Option<Codec>,
}

impl PartLayout {
    /// A part that is kept as it is.
    #[must_use]
    pub const fn plain(rows: u32, row_bytes: u32) -> Self {
        Self { rows, row_bytes, codec: None }
    }

    /// A part of the codec's vectors, kept encoded.
    #[must_use]
    pub fn encoded(rows: u32, codec: Codec) -> Self {
        Self { rows, row_bytes: u32::try_from(codec.vector_bytes()).unwrap_or(u32::MAX), codec: Some(codec) }
    }

    /// Bytes of one token in all rows, in the caller's memory.
    #[must_use]
    pub fn token_bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.row_bytes)
    }

    /// Whether the codec, if there is one, is for rows of this length.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.codec.is_none_or(|codec| codec.vector_bytes() == self.row_bytes as usize)
    }

    /// Bytes that a run of `tokens` tokens takes where it is kept: at most so many if the codec is lossless, otherwise
    /// exactly. More than 32 bits where no record could hold it.
    #[must_use]
    pub fn most_stored_bytes(&self, tokens: usize) -> u64 {
        let bytes = self.token_bytes().saturating_mul(tokens as u64);
        match self.codec {
            // Larger ones are refused before they are encoded; the codec need not count them.
            Some(codec) if u32::try_from(bytes).is_ok() => codec.encoded_bytes(self.rows as usize, tokens) as u64,
            _ => bytes,
        }
    }

    /// Whether the length of what is kept depends on the contents.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.codec.is_some_and(|codec| codec.is_lossless())
    }
}

/// What the blocks of a namespace hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// The arrays of a block, in the order of the layers. Empty where no layer can be cut at a token.
    pub parts: Vec<PartLayout>,
    /// Whether a prefix can be restored only where a snapshot was taken.
    pub needs_snapshot: bool,
    /// The caller's own description, kept and given back as it is.
    pub description: Vec<u8>,
}

impl Layout {
    /// Bytes of one token in the caller's memory; `u64::MAX` where they are more.
    #[must_use]
    pub fn token_bytes(&self) -> u64 {
        self.parts.iter().map(PartLayout::token_bytes).fold(0, u64::saturating_add)
    }

    /// Most payload bytes of a run of tokens; see [`PartLayout::most_stored_bytes`].
    #[must_use]
    pub fn most_stored_bytes(&self, tokens: usize) -> u64 {
        self.parts.iter().map(|part| part.most_stored_bytes(tokens)).fold(0, u64::saturating_add)
    }

    /// Whether the length of a record is known only once it is encoded.
    #[must_use]
    pub fn has_lossless(&self) -> bool {
        self.parts.iter().any(PartLayout::is_lossless)
    }
}

/// A record's name. Given out in rising order and never twice in one store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RecordId(pub u64);

/// The first 16 bytes of the BLAKE3 digest that chains a prefix to its namespace.
pub type Chain = [u8; 16];

/// The chain of an empty prefix.
#[must_use]
pub fn root_chain(namespace: &NamespaceKey) -> Chain {
    first_bytes(blake3::hash(&namespace.0))
}

/// The chain of the prefix that ends after `tokens`, which follow a prefix with the chain `before`.
#[must_use]
pub fn extend_chain(before: &Chain, tokens: &[u32]) -> Chain {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    first_bytes(hasher.finalize())
}

fn first_bytes(hash: blake3::Hash) -> Chain {
    let mut chain = [0; 16];
    chain.copy_from_slice(&hash.as_bytes()[..16]);
    chain
}

/// A segment file's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SegmentId(pub u32);

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The file.
    pub segment: SegmentId,
    /// Where its header begins, in bytes.
    pub offset: u64,
    /// Bytes of header and padding before the payload.
    pub header_bytes: u32,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

impl Location {
    /// Bytes that the record takes in its segment, before padding.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.header_bytes) + self.payload_bytes
    }
}

/// The record that a record continues, and how many of its tokens; `None` continues the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attach {
    /// The record continued.
    pub parent: RecordId,
    /// How many of its tokens belong to the prefix.
    pub parent_tokens: u16,
}

/// What a record is, apart from its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A run of tokens with their slice of every part.
    Block {
        /// Position of the first token in the prompt.
        start: u32,
        /// 1 to 256 token ids.
        tokens: Vec<u32>,
    },
    /// State that is valid at one prefix only: that of `attach`.
    Snapshot {
        /// The caller's own description, given back as it is.
        meta: Vec<u8>,
    },
}

/// All that an index knows of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordInfo {
    /// Its name.
    pub id: RecordId,
    /// Its namespace.
    pub namespace: NamespaceKey,
    /// What it continues; a snapshot always continues a block.
    pub attach: Option<Attach>,
    /// The chain of the prefix that it continues.
    pub attach_chain: Chain,
    /// Block or snapshot.
    pub kind: RecordKind,
}

/// How the bytes of one part are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartEntry {
    /// Bytes on disk.
    pub stored_bytes: u32,
    /// 0: as in memory. Otherwise encoded, and this is [`crate::store::disk::codec_tag`] of the part.
    pub codec: u32,
    /// XXH3-64 of the stored bytes.
    pub checksum: u64,
}
