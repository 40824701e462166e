//! The store's RAM: recycled buffers, copies between them and strided arrays, and the hot tier. Knows no file and no tree.

mod buffers;
mod encoded;
mod gather;
mod hot;
mod mapping;

pub(crate) use buffers::{Buffer, BufferPool};
pub(crate) use encoded::{decode, encode, move_down};
pub(crate) use gather::{Scratch, copy_in, gather, scatter};
pub(crate) use hot::{HotTier, Resident};
