//! The index file's bytes: a header page, rows of fixed size, the rest, and all token ids in the rows' order.
//!
//! ```text
//!      0  "HWKVIDX1"                     header page, 4096 bytes
//!      8  version u32, chunk bytes u32
//!     16  store id, 16 bytes
//!     32  generation u64                 the journal of this generation continues it ...
//!     40  generation u64, offset u64, sequence u64   ... or the one before, from there on
//!     64  blocks u64, snapshots u64, tokens u64, bytes of the rest u64
//!     96  next record u64, next segment u32, day u32, bytes written on it u64
//!    120  XXH3-64 of the table of checksums u64
//!    128  XXH3-64 of 0..128 u64
//!   4096  block rows, 80 bytes each; the rest: namespaces, snapshots, the index's own bytes
//!    ...  token ids u32, from a multiple of 4096 on
//!    ...  XXH3-64 of each chunk of the rows with the rest, then of the token ids
//! ```
//!
//! Rows are sorted by id and name their parent by row, so reading one needs no search and no allocation.

use super::image::{BlockRow, IndexDump, NO_ROW, SnapshotRow, TokenSpan, WriteDay};
use super::record::{StoreId, is_run, layout_bytes, namespace_from, put_namespace};
use super::wire::{Fields, Malformed, PutFields, count_u32};
use super::{JournalMark, checksum};
use crate::store::types::{Attach, Location, RecordId, SegmentId};
use std::sync::Arc;

pub(super) const PAGE: usize = 4096;
/// Bytes under one checksum.
pub(super) const CHUNK: usize = 1 << 20;
pub(super) const ROW: usize = 80;
const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"HWKVIDX1";
const HEADER: usize = 136;
const PINNED: u16 = 1;
const REUSED: u16 = 2;

/// The header page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) store: StoreId,
    /// Of the journal that continues it.
    pub(super) generation: u64,
    /// Where in the journal before that the dump was taken.
    pub(super) mark: JournalMark,
    pub(super) blocks: u64,
    pub(super) snapshots: u64,
    pub(super) tokens: u64,
    pub(super) rest_bytes: u64,
    pub(super) next_record: u64,
    pub(super) next_segment: u32,
    pub(super) written: WriteDay,
    pub(super) table_checksum: u64,
}

/// Where the parts of the file are, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extents {
    /// Rows and rest, behind the header page.
    pub(super) body_bytes: u64,
    pub(super) tokens_at: u64,
    pub(super) token_bytes: u64,
    pub(super) table_at: u64,
    pub(super) table_bytes: u64,
}

impl Extents {
    pub(super) fn file_bytes(&self) -> u64 {
        self.table_at + self.table_bytes
    }

    /// `None` where the counts cannot be true.
    pub(super) fn of(blocks: u64, tokens: u64, rest_bytes: u64) -> Option<Self> {
        let body_bytes = blocks.checked_mul(ROW as u64)?.checked_add(rest_bytes)?;
        let token_bytes = tokens.checked_mul(4)?;
        let tokens_at = body_bytes.checked_add(PAGE as u64)?.checked_next_multiple_of(PAGE as u64)?;
        let table_at = tokens_at.checked_add(token_bytes)?;
        let chunks = body_bytes.div_ceil(CHUNK as u64) + token_bytes.div_ceil(CHUNK as u64);
        let table_bytes = chunks * 8;
        table_at.checked_add(table_bytes)?;
        Some(Self { body_bytes, tokens_at, token_bytes, table_at, table_bytes })
    }
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAGE);
        out.extend_from_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_u32(count_u32(CHUNK));
        out.extend_from_slice(&self.store);
        for field in [self.generation, self.mark.generation, self.mark.offset, self.mark.sequence] {
            out.put_u64(field);
        }
        for field in [self.blocks, self.snapshots, self.tokens, self.rest_bytes, self.next_record] {
            out.put_u64(field);
        }
        out.put_u32(self.next_segment);
        out.put_u32(self.written.day);
        out.put_u64(self.written.bytes);
        out.put_u64(self.table_checksum);
        let sum = checksum(&out);
        out.put_u64(sum);
        out.resize(PAGE, 0);
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..HEADER).ok_or(Malformed("ends too early"))?;
        let mut fields = Fields(bytes);
        if fields.array::<8>()? != MAGIC || fields.u32()? != VERSION || fields.u32()? as usize != CHUNK {
            return Err(Malformed("is no index of this version"));
        }
        let head = Self {
            store: fields.array()?,
            generation: fields.u64()?,
            mark: JournalMark { generation: fields.u64()?, offset: fields.u64()?, sequence: fields.u64()? },
            blocks: fields.u64()?,
            snapshots: fields.u64()?,
            tokens: fields.u64()?,
            rest_bytes: fields.u64()?,
            next_record: fields.u64()?,
            next_segment: fields.u32()?,
            written: WriteDay { day: fields.u32()?, bytes: fields.u64()? },
            table_checksum: fields.u64()?,
        };
        if fields.u64()? == checksum(&bytes[..HEADER - 8]) {
            Ok(head)
        } else {
            Err(Malformed("the header's checksum does not hold"))
        }
    }

    pub(super) fn extents(&self) -> Option<Extents> {
        Extents::of(self.blocks, self.tokens, self.rest_bytes)
    }
}

/// A block as its row.
pub(super) fn encode_row(row: &BlockRow, parent_row: u32) -> [u8; ROW] {
    let mut out = [0; ROW];
    out[0..8].copy_from_slice(&row.id.0.to_le_bytes());
    out[8..12].copy_from_slice(&parent_row.to_le_bytes());
    out[12..16].copy_from_slice(&row.namespace.to_le_bytes());
    out[16..20].copy_from_slice(&row.start.to_le_bytes());
    out[20..22].copy_from_slice(&row.tokens.count.to_le_bytes());
    out[22..24].copy_from_slice(&row.attach.map_or(0, |attach| attach.parent_tokens).to_le_bytes());
    out[24..40].copy_from_slice(&row.attach_chain);
    out[40..44].copy_from_slice(&row.at.segment.0.to_le_bytes());
    out[44..48].copy_from_slice(&row.at.header_bytes.to_le_bytes());
    out[48..56].copy_from_slice(&row.at.offset.to_le_bytes());
    out[56..64].copy_from_slice(&row.at.payload_bytes.to_le_bytes());
    out[64..72].copy_from_slice(&row.last_used_ms.to_le_bytes());
    out[72..74].copy_from_slice(&flags(row.pinned, row.reused).to_le_bytes());
    out
}

fn flags(pinned: bool, reused: bool) -> u16 {
    u16::from(pinned) * PINNED + u16::from(reused) * REUSED
}

/// The blocks of `rows` with the rows of their parents; their token spans follow one another in chunk 0.
pub(super) fn decode_rows(rows: &[u8], namespaces: usize) -> Result<(Vec<BlockRow>, Vec<u32>), Malformed> {
    let mut blocks: Vec<BlockRow> = super::large_memory::with_capacity(rows.len() / ROW);
    let mut parents = Vec::with_capacity(rows.len() / ROW);
    let mut offset: u32 = 0;
    let mut lowest = 0;
    for row in rows.as_chunks::<ROW>().0 {
        let mut fields = Fields(row);
        let (id, parent, namespace) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let (start, count, parent_tokens) = (fields.u32()?, fields.u16()?, fields.u16()?);
        let attach_chain = fields.array()?;
        let at = place_from(&mut fields)?;
        let (last_used_ms, flags) = (fields.u64()?, fields.u16()?);
        if id < lowest || id == u64::MAX || namespace as usize >= namespaces || !is_run(start, usize::from(count)) {
            return Err(Malformed("a row is out of order or range"));
        }
        lowest = id + 1;
        let attach = match blocks.get(parent as usize) {
            Some(before) => {
                let fits = parent_tokens >= 1
                    && parent_tokens <= before.tokens.count
                    && before.start + u32::from(parent_tokens) == start
                    && before.namespace == namespace;
                if !fits {
                    return Err(Malformed("a row does not continue its parent"));
                }
                Some(Attach { parent: before.id, parent_tokens })
            }
            None if parent == NO_ROW && start == 0 => None,
            None => return Err(Malformed("a row comes before its parent")),
        };
        blocks.push(BlockRow {
            id: RecordId(id),
            attach,
            namespace,
            start,
            tokens: TokenSpan { chunk: 0, offset, count },
            attach_chain,
            at,
            last_used_ms,
            pinned: flags & PINNED != 0,
            reused: flags & REUSED != 0,
        });
        parents.push(parent);
        offset = offset.checked_add(u32::from(count)).ok_or(Malformed("has too many tokens"))?;
    }
    Ok((blocks, parents))
}

/// Fields of a row: segment, header bytes, offset, payload bytes.
fn place_from(fields: &mut Fields<'_>) -> Result<Location, Malformed> {
    let (segment, header_bytes) = (SegmentId(fields.u32()?), fields.u32()?);
    Ok(Location { segment, header_bytes, offset: fields.u64()?, payload_bytes: fields.u64()? })
}

/// Bytes of [`encode_rest`].
pub(super) fn rest_bytes(dump: &IndexDump) -> u64 {
    let namespaces: usize = dump
        .namespaces
        .iter()
        .map(|row| 45 + layout_bytes(&row.layout) + row.layout.description.len() + row.label.len())
        .sum();
    let snapshots: usize = dump.snapshots.iter().map(|row| 68 + row.meta.len()).sum();
    (4 + namespaces + snapshots + 4 + dump.extra.len()) as u64
}

/// Namespaces, snapshots (each with its block's row) and the index's own bytes.
pub(super) fn encode_rest(dump: &IndexDump, snapshots: &[(u32, &SnapshotRow)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(count_u32(dump.namespaces.len()));
    dump.namespaces.iter().for_each(|row| put_namespace(&mut out, row));
    for (block_row, row) in snapshots {
        out.put_u64(row.id.0);
        out.put_u32(*block_row);
        out.put_u16(row.attach.parent_tokens);
        out.put_u16(flags(row.pinned, row.reused));
        out.extend_from_slice(&row.attach_chain);
        out.put_u32(row.at.segment.0);
        out.put_u32(row.at.header_bytes);
        out.put_u64(row.at.offset);
        out.put_u64(row.at.payload_bytes);
        out.put_u64(row.last_used_ms);
        out.put_bytes(&row.meta);
    }
    out.put_bytes(&dump.extra);
    out
}

/// Reads rows and rest. The snapshots' block rows are given beside the image, as the blocks' parent rows are.
pub(super) fn decode_body(body: &[u8], head: &Head) -> Result<(IndexDump, Vec<u32>, Vec<u32>), Malformed> {
    let row_bytes = usize::try_from(head.blocks).ok().and_then(|blocks| blocks.checked_mul(ROW));
    let (rows, rest) = row_bytes.and_then(|bytes| body.split_at_checked(bytes)).ok_or(Malformed("ends too early"))?;
    let mut fields = Fields(rest);
    let namespaces = fields.count(45)?;
    let namespaces = (0..namespaces).map(|_| namespace_from(&mut fields)).collect::<Result<Vec<_>, _>>()?;
    let (blocks, parents) = decode_rows(rows, namespaces.len())?;
    let mut snapshots = Vec::new();
    let mut snapshot_rows = Vec::new();
    let mut lowest = 0;
    for _ in 0..head.snapshots {
        let (id, block_row) = (fields.u64()?, fields.u32()?);
        let (parent_tokens, flags) = (fields.u16()?, fields.u16()?);
        let attach_chain = fields.array()?;
        let at = place_from(&mut fields)?;
        let last_used_ms = fields.u64()?;
        let meta = Arc::new(fields.bytes()?.to_vec());
        let block = blocks.get(block_row as usize).ok_or(Malformed("a snapshot without a block"))?;
        if id < lowest || id <= block.id.0 || parent_tokens == 0 || parent_tokens > block.tokens.count {
            return Err(Malformed("a snapshot is out of order or range"));
        }
        lowest = id + 1;
        snapshot_rows.push(block_row);
        snapshots.push(SnapshotRow {
            id: RecordId(id),
            attach: Attach { parent: block.id, parent_tokens },
            attach_chain,
            at,
            last_used_ms,
            pinned: flags & PINNED != 0,
            reused: flags & REUSED != 0,
            meta,
        });
    }
    let extra = fields.bytes()?.to_vec();
    fields.end()?;
    let (next_record, written) = (head.next_record, head.written);
    let tokens: u64 = blocks.iter().map(|row| u64::from(row.tokens.count)).sum();
    if tokens != head.tokens {
        return Err(Malformed("the rows do not add up to the tokens"));
    }
    let image = IndexDump { namespaces, blocks, snapshots, tokens: Vec::new(), next_record, written, extra };
    Ok((image, parents, snapshot_rows))
}
