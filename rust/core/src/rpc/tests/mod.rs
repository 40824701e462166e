//! Messages, lines, and a connection over real pipes with a client that misbehaves.

mod connection;
mod lines;
mod messages;
