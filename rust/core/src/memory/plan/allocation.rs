//! For how many tokens caches allocate, by how the tokens came: mlx-lm's own caches, and ours.
//!
//! Rules: `KVCache`, `RotatingKVCache`, `BatchRotatingKVCache` and `ChunkedKVCache` of `mlx_lm/models/cache.py` (0.31);
//! `hooks/layer_caches/{live,held,building}.py` here.

use crate::quant::policy::Format;

/// Tokens by which mlx-lm's caches grow, and ours are rounded to.
const STEP_TOKENS: u64 = 256;
/// Of `reserve_for`: answers that are this long at most have their place kept from the beginning, or a quarter of the
/// prompt, whichever is more.
const ANSWER_TOKENS_AT_LEAST: u64 = 1024;
const ANSWER_SHARE_OF_PROMPT: u64 = 4;
/// Of a cache of chunks: decoded tokens after which its size goes round in a circle.
const CHUNKED_STEPS_AT_MOST: u64 = 1 << 16;

/// How the tokens of a request come into its caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// Tokens in chunks.
    pub prefilled_tokens: u64,
    /// Of each chunk, but for the last one.
    pub chunk_tokens: u64,
    /// Tokens one by one, behind them.
    pub decoded_tokens: u64,
}

impl History {
    /// All tokens.
    #[must_use]
    pub fn tokens(self) -> u64 {
        self.prefilled_tokens.saturating_add(self.decoded_tokens)
    }

    fn chunk(self) -> u64 {
        self.chunk_tokens.max(1)
    }

    fn chunks(self) -> u64 {
        self.prefilled_tokens.div_ceil(self.chunk())
    }

    /// Tokens that are there after so many chunks and decoded tokens, one at least.
    fn tokens_after(self, steps: u64) -> u64 {
        let chunks = self.chunks();
        if steps <= chunks {
            self.prefilled_tokens.min(steps.saturating_mul(self.chunk()))
        } else {
            self.prefilled_tokens + (steps - chunks)
        }
    }

    /// Allocated tokens of a cache that asks `grow` for room whenever `needed(tokens)` is more than it has.
    fn grown(self, needed: impl Fn(u64) -> u64, grow: impl Fn(u64) -> u64) -> Grown {
        let steps = self.chunks().saturating_add(self.decoded_tokens);
        let (mut allocated, mut before, mut done) = (0, 0, 0);
        loop {
            // The first step that needs more; what is needed never falls.
            let (mut low, mut high) = (done, steps);
            while low < high {
                let middle = low + (high - low) / 2;
                if needed(self.tokens_after(middle + 1)) > allocated { high = middle } else { low = middle + 1 }
            }
            if low >= steps {
                return Grown { tokens: allocated, before_last_growth: before };
            }
            before = allocated;
            allocated = grow(needed(self.tokens_after(low + 1)));
            done = low + 1;
        }
    }
}

/// What growing came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grown {
    /// Tokens that there is room for.
    pub(super) tokens: u64,
    /// What there was room for before it last grew; while it grows, both are there.
    pub(super) before_last_growth: u64,
}

/// `reserve_for` of `building.py`: tokens that our caches are allocated for at once.
#[must_use]
pub fn reserve_tokens(prompt_tokens: u64, answer_tokens: u64) -> u64 {
    let likely = ANSWER_TOKENS_AT_LEAST.max(prompt_tokens / ANSWER_SHARE_OF_PROMPT);
    stepped(prompt_tokens.saturating_add(answer_tokens.min(likely)))
}

/// `roomy` of `live.py`: an eighth more than is needed.
fn roomy(tokens: u64) -> u64 {
    stepped(tokens.saturating_add(STEP_TOKENS.max(tokens / 8)))
}

fn stepped(tokens: u64) -> u64 {
    tokens.div_ceil(STEP_TOKENS).saturating_mul(STEP_TOKENS)
}

/// `KVCache`: whole steps for what comes, behind what is there.
pub(super) fn own_sequence(history: History) -> u64 {
    let chunk = history.chunk();
    let mut allocated = 0_u64;
    if chunk.is_multiple_of(STEP_TOKENS) {
        allocated = stepped(history.prefilled_tokens);
    } else {
        let mut used = 0;
        while used < history.prefilled_tokens {
            let new = chunk.min(history.prefilled_tokens - used);
            if used + new > allocated {
                // The room behind a part of a step is dropped.
                let kept = if used.is_multiple_of(STEP_TOKENS) { allocated } else { used };
                allocated = kept + stepped(new);
            }
            used += new;
            // All chunks that fit as well.
            used += (allocated - used).min(history.prefilled_tokens - used) / chunk * chunk;
        }
    }
    allocated + stepped(history.tokens().saturating_sub(allocated))
}

/// `LiveKVCache`.
pub(super) fn live_sequence(history: History, reserve: u64) -> Grown {
    history.grown(|tokens| tokens, |needed| if reserve >= needed { reserve } else { roomy(needed) })
}

/// `HeldTokens`: tokens of a request that are encoded, with the room behind them, and tokens that are plain.
pub(super) fn held(history: History, format: Format, first: u64, recent: u64, reserve: u64) -> (Grown, u64) {
    // Keys or values at 16 bit beside encoded ones are held in one piece.
    let (first, recent) = if is_plain(format) { (0, 0) } else { (first, recent) };
    let run = match format {
        Format::Channel { group, .. } => u64::from(group),
        _ => 1,
    };
    let encoded = |tokens: u64| tokens.saturating_sub(first).saturating_sub(recent) / run * run;
    let wanted = reserve.saturating_sub(first);
    let grow = |needed: u64| {
        let tokens = if wanted >= needed { wanted } else { roomy(needed) };
        tokens.div_ceil(run).saturating_mul(run)
    };
    (history.grown(encoded, grow), history.tokens() - encoded(history.tokens()))
}

/// `RotatingKVCache` of one request.
pub(super) fn own_window(history: History, window: u64) -> u64 {
    // A chunk of one token goes the way of decoded ones.
    if history.prefilled_tokens <= 1 || history.chunk() == 1 {
        return decoded_window(0, history.tokens(), window);
    }
    decoded_window(prefilled_window(history, window), history.decoded_tokens, window)
}

/// What a window takes at the end of its prefill: a chunk, and what its first token still sees.
pub(super) fn prefilled_window(history: History, window: u64) -> u64 {
    let (tokens, chunk) = (history.prefilled_tokens, history.chunk());
    if tokens <= chunk {
        return tokens;
    }
    let last = tokens - (history.chunks() - 1) * chunk;
    // The last chunk of one token is put into its place, behind a cache that was as after any other chunk.
    if last == 1 {
        return decoded_window(
            prefilled_window(History { prefilled_tokens: tokens - 1, ..history }, window),
            1,
            window,
        );
    }
    (tokens - last).min(window.saturating_sub(1)) + last
}

/// The most that a window takes while its prefill goes on.
pub(super) fn filling_window(history: History, window: u64) -> u64 {
    let chunk = history.chunk();
    let whole = history.prefilled_tokens / chunk * chunk;
    let at_last_whole = prefilled_window(History { prefilled_tokens: whole, ..history }, window);
    prefilled_window(history, window).max(at_last_whole)
}

/// `BatchRotatingKVCache`: of a request that entered a batch after its prefill, where it has its tokens and no room.
pub(super) fn batched_window(history: History, window: u64) -> u64 {
    decoded_window(history.prefilled_tokens.min(window), history.decoded_tokens, window)
}

fn decoded_window(allocated: u64, decoded: u64, window: u64) -> u64 {
    if decoded == 0 {
        return allocated;
    }
    if allocated >= window {
        return window;
    }
    let missing = decoded.min(window - allocated);
    (allocated + stepped(missing)).min(window)
}

/// `ChunkedKVCache`, which is cut before each step: what it has room for at the end, and the most that it had.
pub(super) fn chunked(history: History, chunk_tokens: u64) -> (u64, u64) {
    let (mut allocated, mut offset, mut start, mut most) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut step = |new: u64| {
        if allocated >= chunk_tokens {
            start += allocated - chunk_tokens;
            allocated = chunk_tokens;
        }
        let used = offset.saturating_sub(start);
        if used + new > allocated {
            let kept = if used.is_multiple_of(STEP_TOKENS) { allocated } else { used };
            allocated = kept + stepped(new);
        }
        offset += new;
        most = most.max(allocated);
        (allocated, most)
    };
    let mut at_end = (0, 0);
    let steps = history.chunks().min(CHUNKED_STEPS_AT_MOST);
    for index in 0..steps {
        at_end = step(history.tokens_after(index + 1) - history.tokens_after(index));
    }
    for _ in 0..history.decoded_tokens.min(CHUNKED_STEPS_AT_MOST) {
        at_end = step(1);
    }
    at_end
}

pub(super) fn is_plain(format: Format) -> bool {
    matches!(format, Format::Plain | Format::Lossless)
}
