//! A piece of a text that knows where in the text it is, so that an error can point at it.

use super::super::error::PolicyError;
use super::super::problem::{Problem, quoted};

/// A piece of the text of a policy, without white space around it.
#[derive(Clone, Copy)]
pub(in super::super) struct Piece<'t> {
    whole: &'t str,
    from: usize,
    to: usize,
}

impl<'t> Piece<'t> {
    /// All of a text.
    pub(in super::super) fn whole(text: &'t str) -> Self {
        Self { whole: text, from: 0, to: text.len() }.trimmed()
    }

    /// Its text.
    pub(super) fn text(&self) -> &'t str {
        &self.whole[self.from..self.to]
    }

    /// As much of its text as an error repeats.
    pub(super) fn quoted(&self) -> String {
        quoted(self.text())
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Whether it is that word, in letters of either case.
    pub(super) fn is(&self, word: &str) -> bool {
        self.text().eq_ignore_ascii_case(word)
    }

    /// The pieces between the `separator`s.
    pub(super) fn split(self, separator: char) -> impl Iterator<Item = Piece<'t>> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let (next, behind) = rest?.halves(separator);
            rest = behind;
            Some(next)
        })
    }

    /// What is before the first `separator` and what is behind it.
    pub(super) fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, behind) = self.halves(separator);
        behind.map(|behind| (before, behind))
    }

    /// Its first `bytes`, which end where a character ends, and the rest.
    pub(super) fn split_at(self, bytes: usize) -> (Self, Self) {
        let middle = self.from + bytes;
        (Self { to: middle, ..self }.trimmed(), Self { from: middle, ..self }.trimmed())
    }

    /// The error that something is wrong with this piece.
    pub(super) fn fault(&self, problem: Problem) -> PolicyError {
        PolicyError::Text {
            text: self.whole.to_owned(),
            part: self.text().to_owned(),
            column: self.whole[..self.from].chars().count() + 1,
            problem,
        }
    }

    fn halves(self, separator: char) -> (Self, Option<Self>) {
        match self.text().find(separator) {
            Some(at) => {
                let (before, behind) = (self.from + at, self.from + at + separator.len_utf8());
                (Self { to: before, ..self }.trimmed(), Some(Self { from: behind, ..self }.trimmed()))
            }
            None => (self, None),
        }
    }

    fn trimmed(self) -> Self {
        let text = self.text();
        let from = self.from + (text.len() - text.trim_start().len());
        let to = (self.from + text.trim_end().len()).max(from);
        Self { from, to, ..self }
    }
}
