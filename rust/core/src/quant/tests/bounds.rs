//! How far a number may be from itself after affine and channel.

use super::*;

/// Half of the distance from 1 to the next number, and the least number above 0.
fn unit_and_least(element: Element) -> (f64, f64) {
    match element {
        Element::Float16 => (f64::powi(2.0, -11), f64::powi(2.0, -24)),
        Element::Bfloat16 => (f64::powi(2.0, -8), f64::powi(2.0, -133)),
        Element::Float32 => (f64::powi(2.0, -24), f64::powi(2.0, -149)),
    }
}

/// Checks one group against the bound.
///
/// In exact arithmetic a number is `bias + code × scale`, at most half a scale away, unless it was clipped. The bias is
/// a number of the group, or 0, so it is kept exactly, as is 0. That the edge has a whole code stretches or shrinks the
/// scale by a factor of at most `1 ± 1/(2q)`, where `q`, the edge's distance from 0 in scales, is at least `top / 2` where
/// 0 is within the range: what is beyond the last code is then at most `top / (2q)`, one scale, away from it. The rest is
/// rounding to the element's type: of the scale, times up to `top`; of the product; of the sum; each relative to at most
/// twice the greatest number; and for numbers so small that their spacing no longer shrinks, that spacing `top` times.
fn check(before: &[f32], after: &[f32], bits: u8, element: Element) -> Result<(), TestCaseError> {
    let top = f64::from((1_u32 << bits) - 1);
    let (unit, least) = unit_and_least(element);
    let most = before.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
    let max = before.iter().fold(f32::NEG_INFINITY, |max, number| max.max(*number));
    let min = before.iter().fold(f32::INFINITY, |min, number| min.min(*number));
    let scale = (f64::from(max) - f64::from(min)).max(1e-7 * top) / top;
    let bound = scale * (1.0 + 1.0 / top) + 8.0 * unit * f64::from(most) + (top + 1.0) * least;
    for (before, after) in before.iter().zip(after) {
        let error = (f64::from(*before) - f64::from(*after)).abs();
        prop_assert!(error <= bound, "{before} became {after}, {error} away: the bound is {bound}, the scale {scale}");
    }
    Ok(())
}

/// Numbers of a few magnitudes, with constants and outliers among them.
fn numbers(element: Element) -> impl Strategy<Value = Vec<f32>> {
    let magnitude = if element == Element::Float16 { -6..3_i32 } else { -20..20_i32 };
    (magnitude, any::<u64>(), 0..4_u8, -4.0..4.0_f32).prop_map(|(magnitude, seed, kind, shift)| {
        let mut normal = Normal(seed);
        let size = 10.0_f32.powi(magnitude) / 16.0;
        let number = |index: usize| match kind {
            0 => shift * size,
            1 => (normal.next() + 4.0 * shift) * size,
            2 if index.is_multiple_of(29) => 30.0 * normal.next() * size,
            _ => normal.next() * size,
        };
        (0..1500).map(number).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn affine_is_within_its_bound(
        (element, numbers) in element().prop_flat_map(|element| (Just(element), numbers(element))),
        bits in prop_oneof![Just(8_u8), Just(6), Just(5), Just(4), Just(3), Just(2)],
        group in prop_oneof![Just(32_u16), Just(64), Just(128)],
    ) {
        let codec = Codec::new(Scheme::Affine { bits, group }, element, 256).expect("a scheme of MLX");
        let mut endless = numbers.iter().copied().cycle();
        let array = Array::of_numbers(&codec, 2, 5, || endless.next().expect("endless"));
        let (before, after) = (array.numbers(element), array.round_trip(&codec).numbers(element));
        for (before, after) in before.chunks(usize::from(group)).zip(after.chunks(usize::from(group))) {
            check(before, after, bits, element)?;
        }
    }

    #[test]
    fn channel_is_within_the_same_bound(
        (element, numbers) in element().prop_flat_map(|element| (Just(element), numbers(element))),
        bits in prop_oneof![Just(8_u8), Just(6), Just(5), Just(4), Just(3), Just(2)],
        group in prop_oneof![Just(32_u16), Just(64), Just(128)],
        tokens in 1..150_usize,
    ) {
        let codec = Codec::new(Scheme::Channel { bits, group }, element, 48).expect("a multiple of 16");
        let mut endless = numbers.iter().copied().cycle();
        let array = Array::of_numbers(&codec, 2, tokens, || endless.next().expect("endless"));
        let (before, after) = (array.numbers(element), array.round_trip(&codec).numbers(element));
        for (before, after) in before.chunks(48 * tokens).zip(after.chunks(48 * tokens)) {
            for first in (0..tokens).step_by(usize::from(group)) {
                let members = first..tokens.min(first + usize::from(group));
                for channel in 0..48 {
                    let of = |row: &[f32]| members.clone().map(|token| row[token * 48 + channel]).collect::<Vec<_>>();
                    check(&of(before), &of(after), bits, element)?;
                }
            }
        }
    }

    #[test]
    fn a_constant_comes_back_as_it_was(number in prop_oneof![1e-6..6e4_f32, -6e4..-1e-6_f32, Just(0.0)], scheme in scheme()) {
        let codec = Codec::new(scheme, Element::Float16, 128).expect("128 suits all");
        let array = Array::of_numbers(&codec, 1, 70, || number);
        if !matches!(scheme, Scheme::Rotated { .. }) {
            prop_assert_eq!(array.round_trip(&codec), array);
        }
    }
}

#[test]
fn nan_and_infinity_stay_within_their_group() {
    for text in ["affine:4:32", "channel:4:32"] {
        let codec = Codec::parse(text, Element::Float16, 64).expect("it suits");
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut at = 0;
            let array = Array::of_numbers(&codec, 1, 64, || {
                at += 1;
                if at == 1 { odd } else { 1.0 + (at % 7) as f32 }
            });
            let after = array.round_trip(&codec).numbers(Element::Float16);
            for (index, number) in after.into_iter().enumerate() {
                let (token, channel) = (index / 64, index % 64);
                let shares =
                    if text.starts_with('a') { token == 0 && channel < 32 } else { token < 32 && channel == 0 };
                assert!(shares || number.is_finite(), "{text}: {odd} spread to {token}, {channel}");
                // NaN has no place in a range: the others of its group do not know of it.
                assert!(!odd.is_nan() || number.is_finite(), "{text}: {number} at {token}, {channel}");
            }
        }
    }
}
