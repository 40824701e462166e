//! Little-endian fields in and out of byte strings. Reading never panics and never trusts a length.

/// The bytes do not have the shape they must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// Takes fields off the front of a byte string.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take `each` bytes (at least 1) and must all still be there.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count.checked_mul(each).is_none_or(|bytes| bytes > self.0.len()) {
            return Err(Malformed("counts more than there is"));
        }
        Ok(count)
    }

    /// A byte string behind its length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.count(1)?;
        self.take(count)
    }

    /// A text behind its length.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed("is no UTF-8"))
    }

    /// Token ids behind their count.
    pub(super) fn tokens(&mut self) -> Result<Vec<u32>, Malformed> {
        let count = self.count(4)?;
        Ok(tokens_from(self.take(count * 4)?))
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("goes on too long")) }
    }
}

/// Whole little-endian words.
pub(super) fn tokens_from(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Appends fields to a byte string.
pub(super) trait PutFields {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    /// Behind its length, which fits 32 bits.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// Without a count.
    fn put_words(&mut self, words: &[u32]);
}

impl PutFields for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u32(count_u32(bytes.len()));
        self.extend_from_slice(bytes);
    }

    fn put_words(&mut self, words: &[u32]) {
        self.reserve(words.len() * 4);
        self.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
}

/// A count that the format keeps in 32 bits; the callers' limits keep it far below.
pub(super) fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or_else(|_| unreachable!("limits keep {count} below 2^32"))
}
