//! KV codecs: arrays of keys and values as fewer bytes, and back.
//!
//! A [`Codec`] is a [`Scheme`] for vectors of one [`Element`] type and one width. It encodes runs of 1 to 256 tokens,
//! `[rows, tokens, width]` with any strides, straight from the caller's arrays and back into them. It knows nothing of
//! files, of models, nor of threads: a call works on the caller's thread and, once that thread has called before,
//! allocates nothing.

#![expect(clippy::inline_always, reason = "a kernel has the instruction set of what it is inlined into")]

/// Calls `$call` with the constant that `$bits` is, one of those listed.
macro_rules! with_bits {
    ($bits:expr, one of [$($listed:literal),+], $name:ident => $call:expr) => {
        match $bits {
            $($listed => {
                const $name: u32 = $listed;
                $call
            })+
            _ => unreachable!("`Codec::new` let other bits through"),
        }
    };
}

mod affine;
mod channel;
mod codec;
mod element;
mod error;
mod lossless;
mod packing;
pub mod policy;
mod quantizer;
mod rotated;
mod run;
mod simd;
mod text;

pub use codec::{Codec, Scheme, Strides};
pub use element::Element;
pub use error::{CodecError, Malformed};

#[cfg(test)]
mod tests;
