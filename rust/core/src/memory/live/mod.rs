//! The live ledger: what every layer of every request holds, sampled while a model runs.
//!
//! Who runs the model reads the sizes of its caches and hands them to [`LayerMemory::record`]; a ring of fixed size keeps
//! the latest samples. A [`MemoryReport`] is put together when somebody asks. Knows nothing of MLX, of Python, or of how
//! a cache is made.

mod assemble;
mod bell;
mod event;
mod figure;
mod history;
mod layer_memory;
mod process;
mod report;
mod ring;
mod sample;
mod table;
#[cfg(test)]
mod tests;

pub use assemble::{NoSampler, Surroundings, report};
pub use bell::wait_for_sample;
pub use event::MemoryEvent;
pub use figure::{Figure, Source};
pub use history::{HISTORY_POINTS, History};
pub use layer_memory::{LayerMemory, Limits};
pub use process::{ProcessFigures, cheap_footprint_bytes, major_faults};
pub use report::{
    CacheUse, LayerUse, MemoryReport, MlxMemory, ModelMemory, Peak, ProcessMemory, RequestMemory, SCHEMA, Sampling,
    SamplingState, StoreMemory,
};
pub use sample::{CacheKind, Cell, Counters, Moment, Phase, Row, Shape, Stage};
pub use table::{HISTORY_WORDS, LayerTable, ROW_WORDS};
