//! A report's numbers as rows of 8-byte words, for readers of arrays: the same memory serves without a copy.
//!
//! A word is an `i64`, or an `f64` in its bits. What is not known is -1, or NaN. Names are indices into a table of names.

use super::figure::Figure;
use super::report::{CacheUse, MemoryReport};

/// Words of a row of the layers: model, request, layer, place, kind, class, K format, V format (names, or -1), K bits, V
/// bits (`f64`), tokens, allocated bytes, used bytes. Model and request are their places in the report.
pub const ROW_WORDS: usize = 13;

/// Words of a row of a model's history before the layers' bytes: time (`f64`), MLX active, cache and peak bytes.
pub const HISTORY_WORDS: usize = 4;

/// A report's numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LayerTable {
    /// Rows of [`ROW_WORDS`], one for each cache of each request.
    pub layers: Vec<i64>,
    /// Of each model, rows of [`HISTORY_WORDS`] and a word for each layer.
    pub histories: Vec<Vec<i64>>,
    /// What the words of kinds, classes and formats stand for.
    pub names: Vec<String>,
}

impl LayerTable {
    /// The numbers of a report.
    #[must_use]
    pub fn of(report: &MemoryReport) -> Self {
        let mut table = Self::default();
        for (model, memory) in report.models.iter().enumerate() {
            for (request, held) in memory.requests.iter().enumerate() {
                for cache in &held.caches {
                    table.push(model, request, cache);
                }
            }
            let history = &memory.history;
            let mut words = Vec::new();
            for (point, layers) in history.layer_bytes.iter().enumerate() {
                // Columns that a file has of different lengths have no more points than they have.
                words.push(bits(history.unix_s.get(point).copied().unwrap_or(f64::NAN)));
                for column in [&history.mlx_active_bytes, &history.mlx_cache_bytes, &history.mlx_peak_bytes] {
                    words.push(column.get(point).copied().flatten().map_or(-1, word));
                }
                words.extend(layers.iter().map(|bytes| word(*bytes)));
            }
            table.histories.push(words);
        }
        table
    }

    fn push(&mut self, model: usize, request: usize, cache: &CacheUse) {
        let kind = serde_json::to_value(cache.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
        let row = [
            word(model as u64),
            word(request as u64),
            i64::from(cache.layer),
            i64::from(cache.place),
            self.name(&kind.unwrap_or_default()),
            self.name(&cache.cache_class),
            self.name(&cache.k_format),
            self.name(&cache.v_format),
            bits(cache.k_bits.unwrap_or(f64::NAN)),
            bits(cache.v_bits.unwrap_or(f64::NAN)),
            figure(&cache.tokens),
            figure(&cache.allocated_bytes),
            figure(&cache.used_bytes),
        ];
        const { assert!(ROW_WORDS == 13, "a row has as many words") };
        self.layers.extend(row);
    }

    fn name(&mut self, name: &str) -> i64 {
        if name.is_empty() {
            return -1;
        }
        let place = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        word(place as u64)
    }
}

fn figure(figure: &Figure<u64>) -> i64 {
    figure.value.map_or(-1, word)
}

fn word(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bits(number: f64) -> i64 {
    number.to_bits().cast_signed()
}
