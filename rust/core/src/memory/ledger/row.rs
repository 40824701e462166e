//! A row of the ledger, and its way into the table and back. The columns are listed once.

use rusqlite::ToSql;
use serde::{Deserialize, Serialize};

use super::error::LedgerError;

macro_rules! row {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// One request: what it was, how long it took, what its memory was predicted to be, and what it was.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Row {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl Row {
            /// The names of the columns, in the order of the fields.
            pub const COLUMNS: &[&str] = &[$(stringify!($name)),*];

            /// The fields, in the order of [`Self::COLUMNS`].
            pub(super) fn values(&self) -> [&dyn ToSql; Self::COLUMNS.len()] {
                [$(&self.$name),*]
            }

            /// From a row of a query that names [`Self::COLUMNS`].
            pub(super) fn read(from: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
                Ok(Self { $($name: from.get(stringify!($name))?,)* })
            }
        }
    };
}

row! {
    /// The engine's id of the request; with its arrival it names the request.
    request_id: String,
    /// The id of the model.
    model: String,
    /// What it ran on, such as `cpu` or `gpu (Apple M3 Max)`.
    device: String,
    /// The KV policy at which it ran.
    kv_policy: String,
    /// `stop`, `length`, `tool_calls`, `cancelled` or what failed.
    finish_reason: String,
    /// When it arrived.
    arrived_unix_s: f64,
    /// Tokens of the prompt.
    prompt_tokens: u64,
    /// Those of them whose KV was restored.
    cached_tokens: u64,
    /// Tokens generated.
    completion_tokens: u64,
    /// From arrival to the begin of its prefill; none where it never began.
    queue_s: Option<f64>,
    /// Prefill.
    prefill_s: Option<f64>,
    /// From arrival to the first token; none where there was none.
    ttft_s: Option<f64>,
    /// From the first token to the end.
    decode_s: Option<f64>,
    /// From arrival to the end.
    total_s: Option<f64>,
    /// Most requests that ran beside it, itself included.
    batch_peak: u64,
    /// Most tokens of one chunk of prefill.
    chunk_tokens: u64,
    /// Bytes of the model's weights.
    weights_bytes: Option<u64>,
    /// Bytes allocated for its keys, values and recurrent states at its end.
    kv_bytes: Option<u64>,
    /// Peak of MLX's memory while it ran.
    peak_bytes: Option<u64>,
    /// Predicted, by term.
    predicted_weights_bytes: Option<u64>,
    /// Predicted for all requests that ran beside it, taken to be as long as this one.
    predicted_kv_bytes: Option<u64>,
    /// As `predicted_kv_bytes`: recurrent state.
    predicted_state_bytes: Option<u64>,
    /// Predicted: the larger of a prefill chunk's and a decode step's.
    predicted_activations_bytes: Option<u64>,
    /// Predicted: what the runtime takes besides.
    predicted_runtime_bytes: Option<u64>,
    /// Predicted, all terms together.
    predicted_peak_bytes: Option<u64>,
    /// Why nothing was predicted; none where it was.
    prediction_error: Option<String>,
}

/// The largest integer that a column holds.
const MOST: u64 = i64::MAX.cast_unsigned();

impl Row {
    /// Whether it can be written and read back as it is.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let wrong = |what: String| Err(LedgerError::Row(what));
        for (name, text) in [("request_id", &self.request_id), ("model", &self.model)] {
            if text.is_empty() {
                return wrong(format!("{name} is empty"));
            }
        }
        let seconds = [self.queue_s, self.prefill_s, self.ttft_s, self.decode_s, self.total_s];
        if !seconds.into_iter().flatten().chain([self.arrived_unix_s]).all(f64::is_finite) {
            return wrong("a time is not finite".to_owned());
        }
        let counts =
            [self.prompt_tokens, self.cached_tokens, self.completion_tokens, self.batch_peak, self.chunk_tokens];
        let sizes = [
            self.weights_bytes,
            self.kv_bytes,
            self.peak_bytes,
            self.predicted_weights_bytes,
            self.predicted_kv_bytes,
            self.predicted_state_bytes,
            self.predicted_activations_bytes,
            self.predicted_runtime_bytes,
            self.predicted_peak_bytes,
        ];
        match counts.into_iter().chain(sizes.into_iter().flatten()).find(|number| *number > MOST) {
            Some(number) => wrong(format!("{number} is above {MOST}")),
            None => Ok(()),
        }
    }
}
