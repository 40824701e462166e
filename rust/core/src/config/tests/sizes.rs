//! Sizes as people write them.

use proptest::prelude::*;

use super::super::Size;

#[test]
fn units_count_by_1024_or_1000() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("12 b", 12),
        ("64GiB", 64 << 30),
        (" 1.5 TB ", 1_500_000_000_000),
        ("500 kb", 500_000),
        ("0.5KiB", 512),
        ("8191PiB", 8191 << 50),
        ("9223372036854775807", i64::MAX.cast_unsigned()),
    ] {
        assert_eq!(Size::parse(text).map(Size::bytes), Some(bytes), "{text}");
    }
    for text in [
        "",
        "GiB",
        "20GX",
        "20G",
        "1.GiB",
        "1..5GiB",
        ".5GiB",
        "-1",
        "1e9",
        "8192PiB",
        "9223372036854775808",
        "1 i b",
        "1ib",
        "NaN",
    ] {
        assert_eq!(Size::parse(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn a_whole_number_of_units_is_exact(count in 0_u64..1 << 20, power in 1_u32..=4) {
        let unit = ["KiB", "MiB", "GiB", "TiB"][power as usize - 1];
        prop_assert_eq!(Size::parse(&format!("{count} {unit}")).map(Size::bytes), count.checked_mul(1024_u64.pow(power)));
    }
}
