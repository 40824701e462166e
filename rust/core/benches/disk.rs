//! The store's files against the disk itself: `cargo bench -p hwledger-omlx-core --bench disk [-- open|write|read]`.
//!
//! Writes and reads are put beside `fio`'s sequential figures, taken in the same run on the same folder (`TMPDIR`).
//! Without `fio` the ratios are left out.

use std::io::IoSliceMut;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hwledger_omlx_core::store::disk::{
    BlockRow, Disk, DiskSettings, Fact, IndexDump, NamespaceRow, NewRecord, RealIo, TokenSpan, checksum,
};
use hwledger_omlx_core::store::types::{
    Attach, Layout, Location, NamespaceKey, PartEntry, PartLayout, RecordId, RecordInfo, RecordKind, extend_chain,
    root_chain,
};

const BLOCKS: usize = 100_000;
const RECORDS: usize = 64;
/// 256 tokens × 36 layers × K and V × 8 heads × 128 × 16 bit, as in the burst.
const PARTS: usize = 72;
const PART_BYTES: usize = 256 * 8 * 128 * 2;
const SETTINGS: DiskSettings = DiskSettings { segment_bytes: 256 << 20 };
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this too, without the flag.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let chosen = |name: &str| arguments.iter().all(|argument| argument.starts_with("--") || argument == name);
    let folder = tempfile::tempdir().expect("a folder");
    if chosen("open") {
        open(folder.path());
    }
    if chosen("write") || chosen("read") {
        burst(folder.path(), chosen("read"), false);
        burst(folder.path(), chosen("read"), true);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn namespace() -> NamespaceRow {
    let parts = vec![PartLayout::plain(8, 256); PARTS];
    let layout = Layout { parts, needs_snapshot: false, description: b"bench".to_vec() };
    NamespaceRow { key: NamespaceKey([7; 32]), layout, label: "bench".to_owned() }
}

/// Opening a store of 100,000 blocks of 256 tokens, its files in the page cache.
fn open(folder: &Path) {
    let folder = folder.join("open");
    let io = Arc::new(RealIo::new(&folder));
    let (disk, _) = Disk::open(io.clone(), SETTINGS).expect("opens");
    disk.note(&[Fact::Namespace(namespace())], true).expect("notes");
    let payload = vec![1_u8; 64];
    let part = PartEntry { stored_bytes: 64, codec: 0, checksum: checksum(&payload) };
    let mut infos: Vec<RecordInfo> = Vec::with_capacity(BLOCKS);
    let mut chain = root_chain(&namespace().key);
    for id in 0..BLOCKS {
        // Conversations of 100 blocks.
        let first = id % 100 == 0;
        let tokens: Vec<u32> = (0..256).map(|index| u32::try_from(id * 31 + index).expect("small") % 150_000).collect();
        if first {
            chain = root_chain(&namespace().key);
        }
        let attach = (!first).then(|| Attach { parent: RecordId(id as u64 - 1), parent_tokens: 256 });
        let attach_chain = chain;
        chain = extend_chain(&chain, &tokens);
        let start = u32::try_from(id % 100 * 256).expect("small");
        infos.push(RecordInfo {
            id: RecordId(id as u64),
            namespace: namespace().key,
            attach,
            attach_chain,
            kind: RecordKind::Block { start, tokens },
        });
    }
    let pieces: [&[u8]; 1] = [&payload];
    let mut places: Vec<Location> = Vec::new();
    for infos in infos.chunks(5_000) {
        let records: Vec<NewRecord<'_>> = infos
            .iter()
            .map(|info| NewRecord { info, parts: std::slice::from_ref(&part), payload: &pieces, last_used_ms: 1 })
            .collect();
        places.extend(disk.commit(&records).expect("commits"));
    }
    let journal_bytes = disk.usage().journal_bytes;
    drop(disk);
    let timed = || {
        let times = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            let opened = Disk::open(io.clone(), SETTINGS).expect("opens");
            let took = begun.elapsed().as_secs_f64();
            assert_eq!(opened.1.image.blocks.len(), BLOCKS);
            took
        });
        median(times.collect())
    };
    println!("open, {BLOCKS} blocks, all in the journal ({journal_bytes} bytes): {:.1} ms", timed() * 1e3);
    let dump = dump(&infos, &places);
    let (disk, _) = Disk::open(io.clone(), SETTINGS).expect("opens");
    let begun = Instant::now();
    disk.write_index(&dump, disk.mark()).expect("writes");
    println!("write the index ({} bytes): {:.1} ms", Disk::index_bytes(&dump), begun.elapsed().as_secs_f64() * 1e3);
    drop(disk);
    println!("open, {BLOCKS} blocks, all in the index: {:.1} ms", timed() * 1e3);
    std::fs::remove_file(folder.join("index")).expect("removes");
    let begun = Instant::now();
    let opened = Disk::open(io.clone(), SETTINGS).expect("opens");
    println!("rebuild, {BLOCKS} blocks, from the segments: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    assert_eq!(opened.1.image.blocks.len(), BLOCKS);
}

fn dump(infos: &[RecordInfo], places: &[Location]) -> IndexDump {
    let mut tokens = Vec::with_capacity(BLOCKS * 256);
    let mut blocks = Vec::with_capacity(BLOCKS);
    for (info, at) in infos.iter().zip(places) {
        let RecordKind::Block { start, tokens: run } = &info.kind else { continue };
        let offset = u32::try_from(tokens.len()).expect("small");
        tokens.extend_from_slice(run);
        blocks.push(BlockRow {
            id: info.id,
            attach: info.attach,
            namespace: 0,
            start: *start,
            tokens: TokenSpan { chunk: 0, offset, count: 256 },
            attach_chain: info.attach_chain,
            at: *at,
            last_used_ms: 1,
            pinned: false,
            reused: false,
        });
    }
    let (namespaces, next_record) = (vec![namespace()], BLOCKS as u64);
    IndexDump { namespaces, blocks, tokens: vec![Arc::new(tokens)], next_record, ..IndexDump::default() }
}

/// 64 records of 36 MiB, durable in one commit; then read back from a cold disk and a warm page cache.
fn burst(folder: &Path, and_read: bool, direct: bool) {
    // As large buffers are: at a page's beginning.
    let bytes = PART_BYTES * PARTS;
    let mut memory = vec![0_u8; bytes + 4096];
    let skip = memory.as_ptr().align_offset(4096);
    let payload = &mut memory[skip..skip + bytes];
    for (index, word) in payload.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let payload: &[u8] = payload;
    let parts: Vec<PartEntry> = payload
        .chunks(PART_BYTES)
        .map(|part| PartEntry {
            stored_bytes: u32::try_from(part.len()).expect("small"),
            codec: 0,
            checksum: checksum(part),
        })
        .collect();
    let infos: Vec<RecordInfo> = (0..RECORDS)
        .map(|id| RecordInfo {
            id: RecordId(id as u64),
            namespace: namespace().key,
            attach: None,
            attach_chain: root_chain(&namespace().key),
            kind: RecordKind::Block { start: 0, tokens: vec![u32::try_from(id).expect("small"); 256] },
        })
        .collect();
    let pieces: [&[u8]; 1] = [payload];
    let records: Vec<NewRecord<'_>> =
        infos.iter().map(|info| NewRecord { info, parts: &parts, payload: &pieces, last_used_ms: 1 }).collect();
    let megabytes = u32::try_from(RECORDS * payload.len() / 1_000_000).expect("small");
    let gigabytes = f64::from(megabytes) / 1e3;
    let mut rates = (Vec::new(), Vec::new(), Vec::new());
    let mut reading = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let fio_write = fio(folder, "write");
        rates.1.extend(fio_write);
        if and_read {
            reading.1.extend(fio(folder, "read"));
        }
        let _ = std::fs::remove_file(folder.join("fio"));
        let folder = folder.join("burst");
        let (disk, _) = Disk::open(Arc::new(RealIo::new(&folder).past_page_cache(direct)), SETTINGS).expect("opens");
        disk.note(&[Fact::Namespace(namespace())], true).expect("notes");
        let begun = Instant::now();
        let places = disk.commit(&records).expect("commits");
        let rate = gigabytes / begun.elapsed().as_secs_f64();
        rates.0.push(rate);
        rates.2.extend(fio_write.map(|fio| rate / fio));
        if and_read {
            forget(&folder);
            let cold = gigabytes / read(&disk, &places);
            reading.0.push(cold);
            warm(&folder);
            reading.2.push(gigabytes / read(&disk, &places));
        }
        drop(disk);
        std::fs::remove_dir_all(&folder).expect("removes");
    }
    let way = if direct { "past the page cache" } else { "through the page cache" };
    println!("write, {RECORDS} x {} bytes, durable, {way}: {:.2} GB/s", payload.len(), median(rates.0));
    if !rates.1.is_empty() {
        println!("fio sequential write: {:.2} GB/s; ratio, median of pairs: {:.2}", median(rates.1), median(rates.2));
    }
    if and_read {
        let cold = median(reading.0);
        println!("read, cold: {cold:.2} GB/s; warm: {:.2} GB/s", median(reading.2));
        if !reading.1.is_empty() {
            let fio = median(reading.1);
            println!("fio sequential read: {fio:.2} GB/s; ratio: {:.2}", cold / fio);
        }
    }
}

/// Reads every record on two threads into memory that was touched before; seconds.
fn read(disk: &Disk, places: &[Location]) -> f64 {
    let next = AtomicUsize::new(0);
    let bytes = usize::try_from(places[0].payload_bytes).expect("fits");
    let mut buffers = [vec![1_u8; bytes], vec![1_u8; bytes]];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for buffer in &mut buffers {
            scope.spawn(|| {
                while let Some(at) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut slices: Vec<IoSliceMut<'_>> = buffer.chunks_mut(PART_BYTES).map(IoSliceMut::new).collect();
                    disk.read(at, 0, &mut slices).expect("reads");
                }
            });
        }
    });
    begun.elapsed().as_secs_f64()
}

/// Takes the folder's clean pages out of the page cache.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("segments")).expect("lists") {
        let file = std::fs::File::open(entry.expect("lists").path()).expect("opens");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("forgets");
        drop(file);
    }
}

/// Takes the folder's files into the page cache.
fn warm(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("segments")).expect("lists") {
        let mut file = std::fs::File::open(entry.expect("lists").path()).expect("opens");
        std::io::copy(&mut file, &mut std::io::sink()).expect("reads");
    }
}

/// `fio`'s sequential rate in GB/s: 1 MiB blocks, direct, the data synced at the end.
fn fio(folder: &Path, mode: &str) -> Option<f64> {
    let file = folder.join("fio");
    let output = Command::new("fio")
        .args(["--name=sequential", "--bs=1M", "--size=2304M", "--direct=1", "--ioengine=libaio", "--iodepth=16"])
        .args(["--end_fsync=1", "--output-format=json"])
        .arg(format!("--rw={mode}"))
        .arg(format!("--filename={}", file.display()))
        .output()
        .ok()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let job = report.get("jobs")?.get(0)?.get(mode)?;
    let seconds = job.get("runtime")?.as_f64()? / 1e3;
    Some(job.get("io_bytes")?.as_f64()? / 1e9 / seconds)
}
