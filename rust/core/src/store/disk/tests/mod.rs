//! The store's files under everything that can happen to them.

mod corpus;
mod crashes;
mod damage;
mod faults;
mod parsers;
mod roundtrip;
