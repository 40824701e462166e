//! Records to store, and what a recovered store says of them.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::Arc;

use crate::quant::{Codec, Element};
use crate::store::disk::faults::FaultyIo;
use crate::store::disk::{
    Disk, DiskError, DiskSettings, Fact, IndexDump, NamespaceRow, NewRecord, Recovered, checksum,
};
use crate::store::types::{
    Attach, Layout, Location, NamespaceKey, PartEntry, PartLayout, RecordId, RecordInfo, RecordKind, extend_chain,
    root_chain,
};

pub(super) const SETTINGS: DiskSettings = DiskSettings { segment_bytes: 8 << 10 };

pub(super) fn namespace(number: u8) -> NamespaceRow {
    NamespaceRow {
        key: NamespaceKey([number; 32]),
        layout: Layout {
            parts: vec![PartLayout::plain(2, 8), encoded("affine:4:64"), encoded("lossless")],
            needs_snapshot: number % 2 == 1,
            description: vec![number; 40],
        },
        label: format!("model {number}"),
    }
}

/// A part of one row of 128 numbers.
fn encoded(scheme: &str) -> PartLayout {
    PartLayout::encoded(1, Codec::parse(scheme, Element::Bfloat16, 128).expect("fits"))
}

/// A record with its payload, in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) info: RecordInfo,
    pub(super) parts: Vec<PartEntry>,
    pub(super) payload: Vec<u8>,
}

impl Sample {
    fn new(info: RecordInfo, payload: Vec<u8>) -> Self {
        let (first, second) = payload.split_at(payload.len() / 3);
        let part = |bytes: &[u8]| PartEntry {
            stored_bytes: u32::try_from(bytes.len()).expect("small"),
            codec: 0,
            checksum: checksum(bytes),
        };
        Self { parts: vec![part(first), part(second)], info, payload }
    }

    /// A block of `count` tokens on top of `parent`'s first `attach` tokens, or of the root.
    pub(super) fn block(id: u64, parent: Option<(&Self, usize)>, count: usize, payload_bytes: usize) -> Self {
        let tokens: Vec<u32> = (0..count).map(|index| u32::try_from(index).expect("small") + 7 * low(id)).collect();
        let key = namespace(1).key;
        let (attach, attach_chain, start) = match parent {
            None => (None, root_chain(&key), 0),
            Some((parent, used)) => {
                let RecordKind::Block { start, tokens } = &parent.info.kind else {
                    panic!("a block continues a block")
                };
                let chain = extend_chain(&parent.info.attach_chain, &tokens[..used]);
                let used = u16::try_from(used).expect("small");
                (Some(Attach { parent: parent.info.id, parent_tokens: used }), chain, start + u32::from(used))
            }
        };
        let kind = RecordKind::Block { start, tokens };
        Self::new(RecordInfo { id: RecordId(id), namespace: key, attach, attach_chain, kind }, bytes(id, payload_bytes))
    }

    pub(super) fn snapshot(id: u64, block: &Self, used: usize, payload_bytes: usize) -> Self {
        let RecordKind::Block { tokens, .. } = &block.info.kind else { panic!("a snapshot is of a block") };
        let info = RecordInfo {
            id: RecordId(id),
            namespace: block.info.namespace,
            attach: Some(Attach { parent: block.info.id, parent_tokens: u16::try_from(used).expect("small") }),
            attach_chain: extend_chain(&block.info.attach_chain, &tokens[..used]),
            kind: RecordKind::Snapshot { meta: format!("meta of {id}").into_bytes() },
        };
        Self::new(info, bytes(id, payload_bytes))
    }

    pub(super) fn new_record<'a>(&'a self, pieces: &'a [&'a [u8]]) -> NewRecord<'a> {
        NewRecord { info: &self.info, parts: &self.parts, payload: pieces, last_used_ms: 1000 + self.info.id.0 }
    }
}

fn low(id: u64) -> u32 {
    u32::try_from(id % 1_000_000).expect("small")
}

/// Bytes that tell every record and position apart.
fn bytes(id: u64, count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|index| (index.wrapping_mul(31) ^ id.wrapping_mul(97) ^ (index >> 8)).to_le_bytes()[0])
        .collect()
}

pub(super) fn open(io: &FaultyIo) -> Result<(Disk, Recovered), DiskError> {
    Disk::open(Arc::new(io.clone()), SETTINGS)
}

/// A new store with the namespace noted.
pub(super) fn fresh(io: &FaultyIo) -> Disk {
    let (disk, _) = open(io).expect("opens");
    disk.note(&[Fact::Namespace(namespace(1))], true).expect("notes");
    disk
}

pub(super) fn commit(disk: &Disk, samples: &[&Sample]) -> Result<Vec<Location>, DiskError> {
    let pieces: Vec<Vec<&[u8]>> = samples.iter().map(|sample| sample.payload.chunks(100).collect()).collect();
    let records: Vec<NewRecord<'_>> =
        samples.iter().zip(&pieces).map(|(sample, pieces)| sample.new_record(pieces)).collect();
    disk.commit(&records)
}

/// A chain of blocks with a snapshot at the end: ids `from..from + count`.
pub(super) fn chain(from: u64, count: u64, payload_bytes: usize) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for id in from..from + count - 1 {
        let parent = samples.last().map(|parent| (parent, 16));
        samples.push(Sample::block(id, parent, 16, payload_bytes));
    }
    let last = samples.last().expect("two or more");
    samples.push(Sample::snapshot(from + count - 1, last, 3, payload_bytes / 2));
    samples
}

/// The ids of a recovered store with their places.
pub(super) fn places(recovered: &Recovered) -> BTreeMap<RecordId, Location> {
    let blocks = recovered.image.blocks.iter().map(|row| (row.id, row.at));
    blocks.chain(recovered.image.snapshots.iter().map(|row| (row.id, row.at))).collect()
}

/// Checks that every recovered record is one of `samples` to the last byte, and that the rows hang together. Gives the ids.
pub(super) fn check(disk: &Disk, recovered: &Recovered, samples: &BTreeMap<RecordId, Sample>) -> Vec<RecordId> {
    let image = &recovered.image;
    assert_eq!(image.blocks.len(), recovered.parent_rows.len());
    assert_eq!(image.snapshots.len(), recovered.snapshot_rows.len());
    assert!(image.blocks.is_sorted_by(|a, b| a.id < b.id) && image.snapshots.is_sorted_by(|a, b| a.id < b.id));
    for (row, parent) in image.blocks.iter().zip(&recovered.parent_rows) {
        let sample = &samples[&row.id];
        let parent = image.blocks.get(*parent as usize).map(|parent| parent.id);
        assert_eq!(parent, sample.info.attach.map(|attach| attach.parent));
        assert_eq!(image.namespaces[row.namespace as usize].key, sample.info.namespace);
        let kind = RecordKind::Block { start: row.start, tokens: image.tokens_of(row).to_vec() };
        assert_eq!(sample.info.kind, kind);
        assert_eq!((row.attach, row.attach_chain), (sample.info.attach, sample.info.attach_chain));
        assert!(row.last_used_ms >= 1000 + row.id.0);
    }
    for (row, block) in image.snapshots.iter().zip(&recovered.snapshot_rows) {
        let sample = &samples[&row.id];
        assert_eq!(Some(row.attach), sample.info.attach);
        assert_eq!(image.blocks[*block as usize].id, row.attach.parent);
        assert_eq!(sample.info.kind, RecordKind::Snapshot { meta: row.meta.to_vec() });
    }
    let places = places(recovered);
    for (id, at) in &places {
        let sample = &samples[id];
        assert!(id.0 < image.next_record);
        let header = disk.verify(at).expect("holds");
        assert_eq!((&header.info, &header.parts), (&sample.info, &sample.parts));
        assert_eq!(read(disk, at, 0, sample.payload.len()), sample.payload);
    }
    places.into_keys().collect()
}

pub(super) fn read(disk: &Disk, at: &Location, offset: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let (first, second) = bytes.split_at_mut(count / 2);
    disk.read(at, offset, &mut [IoSliceMut::new(first), IoSliceMut::new(&mut []), IoSliceMut::new(second)])
        .expect("reads");
    bytes
}

pub(super) fn by_id<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> BTreeMap<RecordId, Sample> {
    samples.into_iter().map(|sample| (sample.info.id, sample.clone())).collect()
}

pub(super) fn ids(samples: &[Sample]) -> Vec<RecordId> {
    samples.iter().map(|sample| sample.info.id).collect()
}

/// The index that a recovered store would dump, unchanged.
pub(super) fn dump(recovered: &Recovered) -> IndexDump {
    recovered.image.clone()
}
