//! Rings that wrap, sums, peaks, provenance, and the schema.

mod ledger;
mod process;
mod ring;
mod schema;

use super::{CacheKind, Cell, Counters, Figure, LayerMemory, Limits, MlxMemory, Phase, Row, Shape, Surroundings};

fn shape(layer: u32, kind: CacheKind) -> Shape {
    Shape {
        layer,
        place: 0,
        kind,
        cache_class: "KVCache".to_owned(),
        k_format: "bfloat16".to_owned(),
        v_format: "bfloat16".to_owned(),
        k_bits: Some(16.0),
        v_bits: Some(16.0),
        shared: false,
        why_unknown: String::new(),
    }
}

fn cell(shape: u32, allocated_bytes: u64, used_bytes: u64, tokens: u64) -> Cell {
    Cell { shape, request: 0, allocated_bytes, used_bytes, tokens }
}

fn counters(active_bytes: u64, peak_bytes: u64) -> Counters {
    Counters { active_bytes: Some(active_bytes), peak_bytes: Some(peak_bytes), ..Counters::default() }
}

fn around() -> Surroundings {
    let figure = || Figure::measured(1, "a test");
    Surroundings {
        mlx: MlxMemory {
            active_bytes: figure(),
            cache_bytes: figure(),
            peak_bytes: figure(),
            device_bytes: figure(),
            free_bytes: figure(),
        },
        store: None,
        why_no_store: "the engine has no cache".to_owned(),
        unsampled: Vec::new(),
    }
}

fn ledger() -> LayerMemory {
    LayerMemory::new("model", 16, Limits { samples: 8, cells: 64 })
}

fn record(ledger: &LayerMemory, phase: Phase, request: u32, chunk: u32, counters: Counters, cells: &[Cell]) {
    let rows = [Row { request, cells: cells.len() }];
    assert!(ledger.record(phase, request, chunk, counters, &rows, cells.iter().copied()));
}
