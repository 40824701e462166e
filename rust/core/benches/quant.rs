//! The KV codecs, in bytes of 16-bit input or output a second, beside memcpy.
//!
//! `cargo bench -p hwledger-omlx-core --bench quant`, and `-- NAME` for those whose name has NAME in it. Bars of issue 4,
//! as ratios on two cores in one run: affine encodes at 8 times `mx.quantize`, decodes at 16 times `mx.dequantize`,
//! `rotated` does both at 30 times mlx-vlm's `TurboQuant`.
//!
//! Each call is of one run, 8 heads of 256 tokens of 128 numbers, as the store has it; the runs of an iteration are more
//! than a cache holds, and each thread has its own. Before the timings come, for the record, the errors that 4 of 128
//! channels, 10 to 30 times as large as the others and shifted, leave on the others.

#![expect(unsafe_code, reason = "codecs follow addresses")]
#![expect(clippy::cast_precision_loss, reason = "few and small")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use hwledger_omlx_core::quant::{Codec, Element, Strides};

const ROWS: usize = 8;
const TOKENS: usize = 256;
const WIDTH: usize = 128;
const RUN_BYTES: usize = ROWS * TOKENS * WIDTH * 2;
const STRIDES: Strides = Strides { rows: ROWS, row_bytes: TOKENS * WIDTH * 2, token_bytes: WIDTH * 2 };

/// 32 MiB.
const RUNS: usize = 64;

const CODECS: [&str; 14] = [
    "affine:8:64",
    "affine:6:64",
    "affine:5:64",
    "affine:4:64",
    "affine:3:64",
    "affine:2:64",
    "channel:8:64",
    "channel:4:64",
    "channel:2:64",
    "rotated:8",
    "rotated:4",
    "rotated:3.5",
    "rotated:2",
    "lossless",
];

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// About normal: the sum of twelve uniform numbers.
fn normal(state: &mut u64) -> f32 {
    let uniform = |state: &mut u64| (splitmix64(state) >> 40) as f32 / (1_u32 << 24) as f32;
    (0..12).map(|_| uniform(state)).sum::<f32>() - 6.0
}

fn bytes(number: f32, element: Element) -> [u8; 2] {
    if element == Element::Float16 { f16::from_f32(number).to_le_bytes() } else { bf16::from_f32(number).to_le_bytes() }
}

fn number(bytes: [u8; 2], element: Element) -> f32 {
    if element == Element::Float16 { f16::from_le_bytes(bytes).to_f32() } else { bf16::from_le_bytes(bytes).to_f32() }
}

fn codec(name: &str, element: Element) -> Codec {
    Codec::parse(name, element, u32::try_from(WIDTH).expect("small")).expect("a codec for 128")
}

fn encode(codec: &Codec, run: &[u8], into: &mut [u8]) -> usize {
    assert_eq!(run.len(), RUN_BYTES);
    // SAFETY: the strides are of one run.
    unsafe { codec.encode(run.as_ptr(), STRIDES, TOKENS, into) }
}

fn decode(codec: &Codec, bytes: &[u8], run: &mut [u8]) {
    assert_eq!(run.len(), RUN_BYTES);
    // SAFETY: the strides are of one run.
    let decoded = unsafe { codec.decode(bytes, TOKENS, 0..TOKENS, run.as_mut_ptr(), STRIDES) };
    decoded.expect("what was encoded");
}

/// Runs `work` on pairs of a run and its encoded bytes, split among `threads`.
fn among_threads(
    threads: usize,
    runs: &mut [u8],
    encoded: &mut [u8],
    lengths: &mut [usize],
    work: impl Fn(&mut [u8], &mut [u8], &mut usize) + Sync,
) {
    let share = RUNS / threads;
    let encoded_bytes = encoded.len() / RUNS;
    std::thread::scope(|scope| {
        let parts = runs.chunks_mut(share * RUN_BYTES).zip(encoded.chunks_mut(share * encoded_bytes));
        for ((runs, encoded), lengths) in parts.zip(lengths.chunks_mut(share)) {
            let work = &work;
            scope.spawn(move || {
                let pairs = runs.chunks_mut(RUN_BYTES).zip(encoded.chunks_mut(encoded_bytes));
                for ((run, encoded), length) in pairs.zip(lengths) {
                    work(run, encoded, length);
                }
            });
        }
    });
}

fn speed(criterion: &mut Criterion) {
    for element in [Element::Float16, Element::Bfloat16] {
        let mut state = 1;
        let one: Vec<u8> = (0..RUN_BYTES / 2).flat_map(|_| bytes(normal(&mut state), element)).collect();
        let mut runs = one.repeat(RUNS);
        let mut lengths = vec![0; RUNS];
        let mut group = criterion.benchmark_group(format!("{element:?}"));
        group.throughput(Throughput::Bytes((RUNS * RUN_BYTES) as u64));
        for threads in [1, 2] {
            let mut copies = vec![1; runs.len()];
            group.bench_function(BenchmarkId::new("memcpy", threads), |bench| {
                bench.iter(|| {
                    among_threads(threads, &mut runs, &mut copies, &mut lengths, |run, copy, _| {
                        copy.copy_from_slice(black_box(run));
                    });
                });
            });
        }
        for name in CODECS {
            let codec = codec(name, element);
            let mut encoded = vec![1; codec.encoded_bytes(ROWS, TOKENS) * RUNS];
            for threads in [1, 2] {
                group.bench_function(BenchmarkId::new(format!("encode {name}"), threads), |bench| {
                    bench.iter(|| {
                        among_threads(threads, &mut runs, &mut encoded, &mut lengths, |run, encoded, length| {
                            *length = encode(&codec, black_box(run), encoded);
                        });
                    });
                });
            }
            let mut decoded = runs.clone();
            for threads in [1, 2] {
                group.bench_function(BenchmarkId::new(format!("decode {name}"), threads), |bench| {
                    bench.iter(|| {
                        among_threads(threads, &mut decoded, &mut encoded, &mut lengths, |run, encoded, length| {
                            decode(&codec, black_box(&encoded[..*length]), run);
                        });
                    });
                });
            }
        }
        group.finish();
    }
}

/// Relative error, in root mean square, on the channels that are no outliers.
fn outliers(_: &mut Criterion) {
    let outlier = |channel: usize| match channel {
        5 => Some((10.0, 20.0)),
        40 => Some((30.0, -60.0)),
        77 => Some((20.0, 0.0)),
        126 => Some((15.0, 45.0)),
        _ => None,
    };
    for element in [Element::Float16, Element::Bfloat16] {
        let mut state = 2;
        let mut key = |index: usize| {
            let (size, shift) = outlier(index % WIDTH).unwrap_or((1.0, 0.0));
            bytes(normal(&mut state) * size + shift, element)
        };
        let run: Vec<u8> = (0..RUN_BYTES / 2).flat_map(&mut key).collect();
        for name in ["affine:4:64", "rotated:4", "channel:4:64"] {
            let codec = codec(name, element);
            let mut encoded = vec![0; codec.encoded_bytes(ROWS, TOKENS)];
            let length = encode(&codec, &run, &mut encoded);
            let mut decoded = vec![0; run.len()];
            decode(&codec, &encoded[..length], &mut decoded);
            let (mut error, mut all) = (0.0, 0.0);
            for (index, (before, after)) in run.as_chunks().0.iter().zip(decoded.as_chunks().0).enumerate() {
                if outlier(index % WIDTH).is_none() {
                    let before = number(*before, element);
                    error += f64::from(before - number(*after, element)).powi(2);
                    all += f64::from(before).powi(2);
                }
            }
            println!("{element:?} {name}: error on the other channels {:.3}, {length} bytes", (error / all).sqrt());
        }
    }
}

fn short() -> Criterion {
    let criterion = Criterion::default().sample_size(10);
    criterion.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800))
}

criterion_group! {
    name = benches;
    config = short();
    targets = outliers, speed
}
criterion_main!(benches);
