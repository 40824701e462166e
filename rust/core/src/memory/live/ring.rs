//! The latest samples, in memory of a fixed size: two rings, one of heads and one of cells. Nothing is allocated after it
//! was made. A sample whose cells were overwritten is gone, even if its head is not.

use super::sample::{Cell, Moment};

#[derive(Clone, Copy, Debug)]
struct Head {
    moment: Moment,
    /// Position of its first cell, counted from the first cell ever.
    first: u64,
    cells: usize,
}

/// The latest samples of one model.
#[derive(Debug)]
pub(super) struct Ring {
    heads: Vec<Head>,
    cells: Vec<Cell>,
    head_capacity: usize,
    /// Samples ever kept.
    samples: u64,
    /// Cells ever kept.
    written: u64,
    /// Samples that had more cells than there is room for.
    dropped: u64,
}

/// A sample as it lies in the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    /// Its number, from 0.
    pub(super) number: u64,
    pub(super) moment: &'a Moment,
    /// Its cells lie in up to two runs.
    pub(super) cells: [&'a [Cell]; 2],
}

impl<'a> Sample<'a> {
    pub(super) fn cells(&self) -> impl Iterator<Item = &'a Cell> + use<'a> {
        let [front, back] = self.cells;
        front.iter().chain(back)
    }
}

impl Ring {
    pub(super) fn new(head_capacity: usize, cell_capacity: usize) -> Self {
        let (head_capacity, cell_capacity) = (head_capacity.max(1), cell_capacity.max(1));
        Self {
            heads: Vec::with_capacity(head_capacity),
            cells: vec![Cell::default(); cell_capacity],
            head_capacity,
            samples: 0,
            written: 0,
            dropped: 0,
        }
    }

    /// Keeps a sample, in the place of the oldest. One with more cells than the ring has room for is dropped and counted.
    pub(super) fn push(&mut self, moment: Moment, cells: &[Cell]) -> bool {
        if cells.len() > self.cells.len() {
            self.dropped += 1;
            return false;
        }
        let start = self.slot(self.written);
        let front = cells.len().min(self.cells.len() - start);
        self.cells[start..start + front].copy_from_slice(&cells[..front]);
        self.cells[..cells.len() - front].copy_from_slice(&cells[front..]);
        let head = Head { moment, first: self.written, cells: cells.len() };
        if self.heads.len() < self.head_capacity {
            self.heads.push(head);
        } else {
            let place = self.place(self.samples);
            self.heads[place] = head;
        }
        self.samples += 1;
        self.written += cells.len() as u64;
        true
    }

    /// Samples ever kept; the next one has this number.
    pub(super) fn count(&self) -> u64 {
        self.samples
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn capacity(&self) -> usize {
        self.head_capacity
    }

    pub(super) fn last(&self) -> Option<Sample<'_>> {
        self.get(self.samples.checked_sub(1)?)
    }

    /// The sample of that number; `None` where it is not there yet, or not any more.
    pub(super) fn get(&self, number: u64) -> Option<Sample<'_>> {
        if number >= self.samples || self.samples - number > self.heads.len() as u64 {
            return None;
        }
        let head = &self.heads[self.place(number)];
        if self.written - head.first > self.cells.len() as u64 {
            return None;
        }
        let start = self.slot(head.first);
        let front = head.cells.min(self.cells.len() - start);
        let cells = [&self.cells[start..start + front], &self.cells[..head.cells - front]];
        Some(Sample { number, moment: &head.moment, cells })
    }

    /// Those that are there, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        (self.samples.saturating_sub(self.heads.len() as u64)..self.samples).filter_map(|number| self.get(number))
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.head_capacity as u64).unwrap_or(0)
    }

    fn slot(&self, cell: u64) -> usize {
        usize::try_from(cell % self.cells.len() as u64).unwrap_or(0)
    }
}
