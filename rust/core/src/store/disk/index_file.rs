//! Writing and reading the index file.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::folder::{INDEX, INDEX_NEXT};
use super::image::{IndexDump, NO_ROW, SnapshotRow};
use super::index_format::{CHUNK, Extents, Head, PAGE, decode_body, encode_rest, encode_row, rest_bytes};
use super::io::{Access, Io, IoFile, read_bytes_at, write_bytes_at};
use super::record::StoreId;
use super::wire::{Malformed, PutFields};
use super::{Context as _, DiskError, JournalMark, checksum, large_memory};
use crate::store::types::RecordId;

/// Bytes from which on a second thread pays for reading.
const PARALLEL_BYTES: u64 = 8 << 20;
/// More threads than this only share the memory's bandwidth.
const MOST_THREADS: usize = 8;

/// Bytes of the file that [`write`] makes of a dump.
pub(super) fn file_bytes(dump: &IndexDump) -> u64 {
    let tokens = dump.blocks.iter().map(|row| u64::from(row.tokens.count)).sum();
    Extents::of(dump.blocks.len() as u64, tokens, rest_bytes(dump)).map_or(u64::MAX, |extents| extents.file_bytes())
}

/// Writes `index.next` and makes it durable; the caller renames it. Gives its length.
pub(super) fn write(
    io: &dyn Io,
    dump: &IndexDump,
    store: &StoreId,
    generation: u64,
    mark: JournalMark,
    next_segment: u32,
) -> Result<u64, DiskError> {
    let invalid = |Malformed(what)| DiskError::Invalid { what: format!("index: {what}") };
    let order = sorted(dump).map_err(invalid)?;
    let ids: Vec<RecordId> = order.iter().map(|row| dump.blocks[*row as usize].id).collect();
    let row_of = |id: RecordId| ids.binary_search(&id).ok().and_then(|row| u32::try_from(row).ok());
    let mut snapshots = Vec::with_capacity(dump.snapshots.len());
    for snapshot in &dump.snapshots {
        let row = row_of(snapshot.attach.parent).ok_or(Malformed("a snapshot without a block")).map_err(invalid)?;
        snapshots.push((row, snapshot));
    }
    snapshots.sort_by_key(|(_, snapshot): &(u32, &SnapshotRow)| snapshot.id);
    let rest = encode_rest(dump, &snapshots);

    let what = "write the index";
    let file = io.open(INDEX_NEXT, Access::Create).context(what)?;
    let mut body = Stream::new(&*file, PAGE as u64);
    for row in &order {
        let block = &dump.blocks[*row as usize];
        let parent = match block.attach {
            None => NO_ROW,
            Some(attach) => row_of(attach.parent).ok_or(Malformed("a block without its parent")).map_err(invalid)?,
        };
        body.put(&encode_row(block, parent)).context(what)?;
    }
    body.put(&rest).context(what)?;
    let mut table = body.finish().context(what)?;

    let tokens: u64 = dump.blocks.iter().map(|row| u64::from(row.tokens.count)).sum();
    let blocks = order.len() as u64;
    let Some(extents) = Extents::of(blocks, tokens, rest.len() as u64) else {
        return Err(invalid(Malformed("too many tokens")));
    };
    let mut stream = Stream::new(&*file, extents.tokens_at);
    let mut words = Vec::with_capacity(1024);
    for row in &order {
        words.clear();
        words.put_words(dump.tokens_of(&dump.blocks[*row as usize]));
        stream.put(&words).context(what)?;
    }
    table.extend(stream.finish().context(what)?);
    write_bytes_at(&*file, &table, extents.table_at).context(what)?;
    let head = Head {
        store: *store,
        generation,
        mark,
        blocks,
        snapshots: snapshots.len() as u64,
        tokens,
        rest_bytes: rest.len() as u64,
        next_record: dump.next_record,
        next_segment,
        written: dump.written,
        table_checksum: checksum(&table),
    };
    write_bytes_at(&*file, &head.encode(), 0).context(what)?;
    file.sync().context(what)?;
    Ok(extents.file_bytes())
}

/// The rows by rising id, each checked to fit its tokens and to come after its parent.
fn sorted(dump: &IndexDump) -> Result<Vec<u32>, Malformed> {
    let rows =
        u32::try_from(dump.blocks.len()).ok().filter(|rows| *rows < NO_ROW).ok_or(Malformed("too many blocks"))?;
    let mut order: Vec<u32> = (0..rows).collect();
    order.sort_by_key(|row| dump.blocks[*row as usize].id);
    for pair in order.windows(2) {
        if dump.blocks[pair[0] as usize].id == dump.blocks[pair[1] as usize].id {
            return Err(Malformed("two blocks with one id"));
        }
    }
    for block in &dump.blocks {
        let span = block.tokens;
        let chunk = dump.tokens.get(span.chunk as usize).ok_or(Malformed("a block's tokens are in no chunk"))?;
        if span.offset as usize + usize::from(span.count) > chunk.len() {
            return Err(Malformed("a block's tokens are outside their chunk"));
        }
        if block.attach.is_some_and(|attach| attach.parent >= block.id) {
            return Err(Malformed("a parent's id is not lower than its child's"));
        }
        if block.namespace as usize >= dump.namespaces.len() {
            return Err(Malformed("a block without its namespace"));
        }
    }
    Ok(order)
}

/// Writes bytes one behind the other, with a checksum for each chunk.
struct Stream<'a> {
    file: &'a dyn IoFile,
    at: u64,
    chunk: Vec<u8>,
    table: Vec<u8>,
}

impl<'a> Stream<'a> {
    fn new(file: &'a dyn IoFile, at: u64) -> Self {
        Self { file, at, chunk: Vec::with_capacity(CHUNK), table: Vec::new() }
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.table.put_u64(checksum(&self.chunk));
        write_bytes_at(self.file, &self.chunk, self.at)?;
        self.file.start_writeback(self.at, self.chunk.len() as u64);
        self.at += self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }

    /// The chunks' checksums.
    fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush()?;
        Ok(self.table)
    }
}

/// An index file that holds in every bit.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) head: Head,
    /// With its tokens in one chunk, and rows sorted by id.
    pub(super) image: IndexDump,
    pub(super) parent_rows: Vec<u32>,
    pub(super) snapshot_rows: Vec<u32>,
    pub(super) file_bytes: u64,
}

/// Why there is no index.
#[derive(Debug)]
pub(super) enum NoIndex {
    Missing,
    Wrong(String),
}

/// Reads the index file.
pub(super) fn read(io: &dyn Io) -> Result<Loaded, NoIndex> {
    let file = io.open(INDEX, Access::Read).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NoIndex::Missing,
        _ => NoIndex::Wrong(error.to_string()),
    })?;
    read_file(&*file).map_err(|problem| match problem {
        Problem::Io(error) => NoIndex::Wrong(error.to_string()),
        Problem::Malformed(Malformed(what)) => NoIndex::Wrong(what.to_owned()),
    })
}

enum Problem {
    Io(io::Error),
    Malformed(Malformed),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

fn read_file(file: &dyn IoFile) -> Result<Loaded, Problem> {
    let file_bytes = file.bytes()?;
    let mut page = [0; PAGE];
    read_bytes_at(file, &mut page, 0)?;
    let head = Head::parse(&page)?;
    // The lengths are believed only as far as the file goes, so damage cannot ask for memory.
    let extents = head.extents().filter(|extents| extents.file_bytes() == file_bytes);
    let extents = extents.ok_or(Malformed("is not as long as it says"))?;
    let length = |bytes: u64| usize::try_from(bytes).map_err(|_| Malformed("is too long for this machine"));
    let mut table = vec![0; length(extents.table_bytes)?];
    read_bytes_at(file, &mut table, extents.table_at)?;
    if checksum(&table) != head.table_checksum {
        return Err(Malformed("the table's checksum does not hold").into());
    }
    let mut body = large_memory::zeroed_bytes(length(extents.body_bytes)?);
    let mut tokens = large_memory::zeroed_words(length(head.tokens)?);
    let sums = table.as_chunks().0.iter().map(|sum| u64::from_le_bytes(*sum));
    let chunks =
        chunks_of(PAGE as u64, &mut body).chain(chunks_of(extents.tokens_at, large_memory::as_bytes(&mut tokens)));
    read_chunks(file, chunks.zip(sums).map(|((at, chunk), sum)| (at, chunk, sum)), file_bytes)?;
    for word in &mut tokens {
        *word = u32::from_le(*word);
    }
    let (mut image, parent_rows, snapshot_rows) = decode_body(&body, &head)?;
    image.tokens.push(Arc::new(tokens));
    Ok(Loaded { head, image, parent_rows, snapshot_rows, file_bytes })
}

fn chunks_of(at: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8])> + Send {
    bytes.chunks_mut(CHUNK).enumerate().map(move |(index, chunk)| (at + (index * CHUNK) as u64, chunk))
}

/// Reads chunks and checks them while they are in the processor's cache, on several threads if there is much.
fn read_chunks<'a>(
    file: &dyn IoFile,
    chunks: impl Iterator<Item = (u64, &'a mut [u8], u64)> + Send,
    file_bytes: u64,
) -> Result<(), Problem> {
    let chunks = Mutex::new(chunks);
    let work = || -> Result<(), Problem> {
        loop {
            let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, chunk, sum)) = next else { return Ok(()) };
            read_bytes_at(file, chunk, at)?;
            if checksum(chunk) != sum {
                return Err(Malformed("a chunk's checksum does not hold").into());
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    if file_bytes < PARALLEL_BYTES || threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        others.into_iter().fold(mine, |so_far, other| {
            so_far.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}
