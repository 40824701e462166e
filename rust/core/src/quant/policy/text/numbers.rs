//! Numbers as people write them: whole ones, tokens, bytes, budgets.

use super::super::budget::{BYTE_UNITS, BYTES_AT_MOST, Budget, Share, TOKEN_UNITS, TOKENS_AT_MOST};
use super::super::error::PolicyError;
use super::super::problem::Problem;
use super::piece::Piece;

/// Digits behind the point that a number of bytes may have; no unit has more.
const FRACTION_DIGITS_AT_MOST: usize = 12;

/// A whole number of `what`.
pub(super) fn whole(piece: Piece<'_>, what: &'static str, most: u64) -> Result<u64, PolicyError> {
    let text = piece.text();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(piece.fault(Problem::NotNumber { what, found: piece.quoted() }));
    }
    // Digits that are no u64 are too many.
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| piece.fault(Problem::TooLarge { what, most }))
}

/// A number of tokens, such as `128k` or `131072`.
pub(super) fn tokens(piece: Piece<'_>) -> Result<u64, PolicyError> {
    let (digits, unit) = unit_of(piece);
    if unit.is_empty() {
        return whole(digits, "tokens", TOKENS_AT_MOST);
    }
    let Some((_, factor)) = TOKEN_UNITS.iter().find(|(name, _)| unit.is(name)) else {
        return Err(piece.fault(Problem::NotNumber { what: "tokens", found: piece.quoted() }));
    };
    let tokens = whole(digits, "tokens", TOKENS_AT_MOST)?.saturating_mul(*factor);
    if tokens > TOKENS_AT_MOST {
        return Err(piece.fault(Problem::TooLarge { what: "tokens", most: TOKENS_AT_MOST }));
    }
    Ok(tokens)
}

/// What stands behind `auto:`.
pub(in super::super) fn budget(piece: Piece<'_>) -> Result<Budget, PolicyError> {
    let found = || piece.quoted();
    if let Some((size, context)) = piece.split_once('@') {
        let (bytes, tokens) = (bytes(size)?, tokens(context)?);
        if bytes == 0 {
            return Err(size.fault(Problem::Zero { what: "bytes" }));
        }
        if tokens == 0 {
            return Err(context.fault(Problem::Zero { what: "tokens" }));
        }
        return Ok(Budget::Bytes { bytes, tokens });
    }
    if bytes(piece).is_ok() {
        return Err(piece.fault(Problem::NoContext { found: found() }));
    }
    let text = piece.text();
    let number = text.strip_prefix('-').or(text.strip_suffix('%')).unwrap_or(text);
    if decimal(number).is_none() {
        return Err(piece.fault(Problem::NotBudget { found: found() }));
    }
    let share = text.parse().ok().and_then(Share::new);
    share.map(Budget::Share).ok_or_else(|| piece.fault(Problem::Share { found: found() }))
}

/// A number of bytes with its unit.
fn bytes(piece: Piece<'_>) -> Result<u64, PolicyError> {
    let wrong = || piece.fault(Problem::NotBytes { found: piece.quoted() });
    let (number, unit) = unit_of(piece);
    let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| unit.is(name)).ok_or_else(wrong)?;
    let (whole, fraction) = decimal(number.text()).ok_or_else(wrong)?;
    if fraction.len() > FRACTION_DIGITS_AT_MOST {
        return Err(wrong());
    }
    let too_large = || piece.fault(Problem::TooLarge { what: "bytes", most: BYTES_AT_MOST });
    // u128 holds 20 digits times the largest unit.
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let tenths = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let behind: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let bytes = u128::from(whole) * u128::from(*factor) + (behind * u128::from(*factor) + tenths / 2) / tenths;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= BYTES_AT_MOST).ok_or_else(too_large)
}

/// The digits before and behind the point, or `None` if it is no such number.
pub(super) fn decimal(text: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, fraction)) => (digits(whole) && digits(fraction)).then_some((whole, fraction)),
        None => digits(text).then_some((text, "")),
    }
}

/// A number and the unit behind it.
fn unit_of(piece: Piece<'_>) -> (Piece<'_>, Piece<'_>) {
    let text = piece.text();
    piece.split_at(text.find(|letter: char| letter.is_alphabetic()).unwrap_or(text.len()))
}
