//! Token ids of all blocks, in large shared chunks: a dump shares them, and a dead chunk gives its memory back.

use crate::store::disk::{TokenChunk, TokenSpan};
use crate::store::types::BLOCK_TOKENS;
use std::sync::Arc;

/// Ids in a chunk that the arena starts itself: 256 KiB.
const CHUNK_TOKENS: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Chunk {
    tokens: TokenChunk,
    live: usize,
    /// The nodes that were ever put here, for moving what is left. May name nodes that have gone since.
    owners: Vec<u32>,
}

/// Token ids by span.
#[derive(Debug, Default)]
pub(super) struct TokenArena {
    chunks: Vec<Chunk>,
    /// Emptied places in `chunks`.
    vacant: Vec<u32>,
    /// The chunk that takes what is new.
    filling: Option<u32>,
}

impl TokenArena {
    pub(super) fn load(chunks: Vec<TokenChunk>) -> Self {
        let chunks = chunks.into_iter().map(|tokens| Chunk { tokens, ..Chunk::default() }).collect();
        Self { chunks, ..Self::default() }
    }

    /// The first token of a span; `None` if the span is not in a chunk, or longer than a block.
    pub(super) fn first(&self, span: TokenSpan) -> Option<u32> {
        let first = span.offset as usize;
        let count = Some(usize::from(span.count)).filter(|count| (1..=BLOCK_TOKENS).contains(count))?;
        let tokens = self.chunks.get(span.chunk as usize)?.tokens.get(first..first.checked_add(count)?)?;
        tokens.first().copied()
    }

    /// Counts a span of a loaded chunk as live; it has a first token.
    pub(super) fn adopt(&mut self, span: TokenSpan, owner: u32) {
        let chunk = &mut self.chunks[span.chunk as usize];
        chunk.live += usize::from(span.count);
        chunk.owners.push(owner);
    }

    /// Gives loaded chunks that no block names back, once all spans are adopted.
    pub(super) fn drop_unused(&mut self) {
        for place in 0..self.chunks.len() {
            if self.chunks[place].live == 0 {
                self.clear(place);
            }
        }
    }

    pub(super) fn get(&self, span: TokenSpan) -> &[u32] {
        let offset = span.offset as usize;
        &self.chunks[span.chunk as usize].tokens[offset..offset + usize::from(span.count)]
    }

    #[expect(clippy::cast_possible_truncation, reason = "a block has at most 256 tokens, a chunk 65,536")]
    pub(super) fn put(&mut self, tokens: &[u32], owner: u32) -> TokenSpan {
        let place = self.room(tokens.len());
        let chunk = &mut self.chunks[place];
        let offset = chunk.tokens.len() as u32;
        // `room` gives a chunk that no dump shares.
        if let Some(own) = Arc::get_mut(&mut chunk.tokens) {
            own.extend_from_slice(tokens);
        }
        chunk.live += tokens.len();
        chunk.owners.push(owner);
        TokenSpan { chunk: place as u32, offset, count: tokens.len() as u16 }
    }

    /// A chunk of our own with room for so many more.
    #[expect(clippy::cast_possible_truncation, reason = "2^32 chunks of 65,536 tokens do not fit in memory")]
    fn room(&mut self, tokens: usize) -> usize {
        if let Some(place) = self.filling.map(|place| place as usize) {
            let chunk = &mut self.chunks[place];
            let own = Arc::get_mut(&mut chunk.tokens);
            if own.is_some_and(|own| own.capacity() - own.len() >= tokens) {
                return place;
            }
        }
        self.retire_filling();
        let tokens = Arc::new(Vec::with_capacity(CHUNK_TOKENS.max(tokens)));
        let chunk = Chunk { tokens, ..Chunk::default() };
        let place = if let Some(place) = self.vacant.pop() {
            self.chunks[place as usize] = chunk;
            place as usize
        } else {
            self.chunks.push(chunk);
            self.chunks.len() - 1
        };
        self.filling = Some(place as u32);
        place
    }

    /// Counts a span as dead. Whether its chunk is now worth moving: less than half of it lives.
    pub(super) fn release(&mut self, span: TokenSpan) -> bool {
        let place = span.chunk as usize;
        let chunk = &mut self.chunks[place];
        chunk.live -= usize::from(span.count);
        if self.filling == Some(span.chunk) {
            return false;
        }
        if chunk.live == 0 {
            self.clear(place);
            return false;
        }
        chunk.live * 2 < chunk.tokens.len()
    }

    /// The nodes that may have tokens in the chunk.
    pub(super) fn owners(&mut self, chunk: u32) -> Vec<u32> {
        std::mem::take(&mut self.chunks[chunk as usize].owners)
    }

    /// Copies a span into a newer chunk, so that its own empties.
    pub(super) fn relocate(&mut self, span: TokenSpan, owner: u32) -> TokenSpan {
        let source = Arc::clone(&self.chunks[span.chunk as usize].tokens);
        let offset = span.offset as usize;
        let moved = self.put(&source[offset..offset + usize::from(span.count)], owner);
        self.release(span);
        moved
    }

    #[expect(clippy::cast_possible_truncation, reason = "as in `room`")]
    fn clear(&mut self, place: usize) {
        self.chunks[place] = Chunk::default();
        self.vacant.push(place as u32);
    }

    /// Takes no more into the chunk that was filling.
    fn retire_filling(&mut self) {
        if let Some(place) = self.filling.take()
            && self.chunks[place as usize].live == 0
        {
            self.clear(place as usize);
        }
    }

    /// The chunks as they are now; later changes go elsewhere.
    pub(super) fn share(&mut self) -> Vec<TokenChunk> {
        self.retire_filling();
        self.chunks.iter().map(|chunk| Arc::clone(&chunk.tokens)).collect()
    }

    /// Bytes of token ids, with what is dead or spare.
    pub(super) fn token_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.capacity() * 4).sum()
    }

    /// Bytes of everything else.
    pub(super) fn own_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(|chunk| chunk.owners.capacity() * 4).sum::<usize>()
    }
}
