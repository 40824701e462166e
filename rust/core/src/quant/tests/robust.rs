//! Any numbers and any bytes: the same on every path, and nothing panics.

use super::super::simd::tests::on_each_path;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_path_writes_the_same_bytes_and_reads_the_same_numbers(
        codec in codec(),
        rows in 1..3_usize,
        tokens in 1..140_usize,
        bits in proptest::collection::vec(any::<u8>(), 1..2000),
    ) {
        let array = Array::of_bits(&codec, rows, tokens, &bits);
        let mut paths = on_each_path(|| {
            let bytes = array.encode(&codec);
            let decoded = Array::decode(&codec, &bytes, rows, tokens, 0..tokens).expect("what was encoded");
            (bytes, super::bits(&decoded.numbers(codec.element())))
        });
        let (_, portable) = paths.remove(0);
        for (name, path) in paths {
            prop_assert!(path.0 == portable.0, "{codec} of {:?}: {name} encodes otherwise", codec.element());
            prop_assert!(path.1 == portable.1, "{codec} of {:?}: {name} decodes otherwise", codec.element());
        }
    }

    #[test]
    fn lossless_loses_nothing(
        element in element(),
        width in 1..200_u32,
        rows in 1..3_usize,
        tokens in 1..20_usize,
        bits in proptest::collection::vec(any::<u8>(), 1..3000),
    ) {
        let codec = Codec::new(Scheme::Lossless, element, width).expect("any width");
        let array = Array::of_bits(&codec, rows, tokens, &bits);
        prop_assert_eq!(array.round_trip(&codec), array);
    }

    #[test]
    fn some_tokens_are_as_they_are_among_all(
        codec in codec(),
        rows in 1..3_usize,
        tokens in 1..140_usize,
        bounds in (0.0..1.0, 0.0..1.0),
        seed: u64,
    ) {
        let mut normal = Normal(seed);
        let bytes = Array::of_numbers(&codec, rows, tokens, || normal.next()).encode(&codec);
        let all = Array::decode(&codec, &bytes, rows, tokens, 0..tokens).expect("what was encoded");
        let (from, to) = ((bounds.0 * tokens as f64) as usize, (bounds.1 * tokens as f64) as usize + 1);
        let wanted = from.min(to)..to.max(from);
        let some = Array::decode(&codec, &bytes, rows, tokens, wanted.clone()).expect("what was encoded");
        let vectors: Vec<&[u8]> = all.offsets().map(|at| &all.bytes[at..at + all.vector_bytes]).collect();
        let expected = (0..rows).flat_map(|row| wanted.clone().map(move |token| row * tokens + token));
        for (offset, index) in some.offsets().zip(expected) {
            prop_assert_eq!(&some.bytes[offset..offset + some.vector_bytes], vectors[index]);
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(
        codec in codec(),
        rows in 1..3_usize,
        tokens in 1..40_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..4000),
    ) {
        let expected = codec.encoded_bytes(rows, tokens);
        let outcome = Array::decode(&codec, &bytes, rows, tokens, 0..tokens);
        if !codec.is_lossless() && bytes.len() != expected {
            prop_assert_eq!(outcome, Err(Malformed::Length { expected, found: bytes.len() }));
        }
        let whole: Vec<u8> = bytes.iter().copied().chain([0]).cycle().take(expected).collect();
        let outcome = Array::decode(&codec, &whole, rows, tokens, 0..tokens);
        prop_assert!(codec.is_lossless() || outcome.is_ok());
    }

    #[test]
    fn a_spoilt_lossless_run_is_refused_or_read(
        at in 0..10_000_usize,
        value: u8,
        cut in 0..10_000_usize,
        seed: u64,
    ) {
        let codec = Codec::new(Scheme::Lossless, Element::Bfloat16, 64).expect("any width");
        let mut normal = Normal(seed);
        let bytes = Array::of_numbers(&codec, 2, 32, || normal.next()).encode(&codec);
        let mut spoilt = bytes.clone();
        spoilt[at % bytes.len()] = value;
        let _ = Array::decode(&codec, &spoilt, 2, 32, 0..32);
        let shorter = Array::decode(&codec, &bytes[..cut % bytes.len()], 2, 32, 0..32);
        prop_assert!(shorter.is_err());
        let longer: Vec<u8> = bytes.iter().copied().chain([value]).collect();
        prop_assert_eq!(Array::decode(&codec, &longer, 2, 32, 0..32), Err(Malformed::Planes));
    }
}

#[test]
fn a_lossless_run_of_noise_takes_no_more_than_is_said() {
    for element in [Element::Float16, Element::Bfloat16, Element::Float32] {
        let codec = Codec::new(Scheme::Lossless, element, 128).expect("any width");
        let mut noise = Normal(7);
        let bits: Vec<u8> = (0..140_000).map(|_| (noise.uniform() * 256.0) as u8).collect();
        let array = Array::of_bits(&codec, 4, 64, &bits);
        assert_eq!(array.encode(&codec).len(), codec.encoded_bytes(4, 64), "{element:?}");
        assert_eq!(array.round_trip(&codec), array, "{element:?}");
    }
}

#[test]
fn lossless_shortens_the_exponents() {
    // Of normal numbers an exponent has 2.4 bits of entropy: of 16 bits, 8 and those remain; of binary16, 11 and those.
    for (element, most) in [(Element::Bfloat16, 0.67), (Element::Float16, 0.85), (Element::Float32, 0.84)] {
        let codec = Codec::new(Scheme::Lossless, element, 128).expect("any width");
        let mut normal = Normal(1);
        let array = Array::of_numbers(&codec, 8, 256, || normal.next());
        let share = array.encode(&codec).len() as f64 / codec.encoded_bytes(8, 256) as f64;
        assert!(share < most, "{element:?}: {share}");
    }
}

proptest! {
    #[test]
    fn names_come_back(codec in codec()) {
        prop_assert_eq!(Codec::parse(&codec.to_string(), codec.element(), codec.width()), Ok(codec));
    }

    #[test]
    fn no_name_makes_parsing_panic(text in "(affine|rotated|channel|lossless|)[:.0-9a-z-]{0,12}") {
        let _ = Codec::parse(&text, Element::Float16, 128);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (text, width) in [
        ("", 128),
        ("affine", 128),
        ("affine:4", 128),
        ("affine:4:64:1", 128),
        ("affine:7:64", 128),
        ("affine:4:48", 96),
        ("affine:4:64", 96),
        ("affine:4:64", 0),
        ("channel:4:64", 40),
        ("channel:1:64", 128),
        ("rotated:0.5", 128),
        ("rotated:8.5", 128),
        ("rotated:3.25", 128),
        ("rotated:4", 80),
        ("lossless:1", 128),
        ("lossless", 0),
    ] {
        assert!(Codec::parse(text, Element::Float16, width).is_err(), "{text:?} of {width}");
    }
    let message = Codec::parse("affine:4:64", Element::Float16, 80).expect_err("80 is not a multiple").to_string();
    assert_eq!(message, "affine:4:64 cannot take vectors of 80 numbers: the width must be a multiple of 64");
}
