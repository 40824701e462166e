//! `auto`: what it finds, what it keeps to, and what it lacks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Cache, Format, Geometry, KvPolicy, Part, PolicyError, Profile, Resolved, Whole};
use super::{affine, kv, model, parsed, plain_model, profile, sorted};

const FORMATS: [Format; 9] = [
    Format::Affine { bits: 8, group: 64 },
    Format::Affine { bits: 6, group: 64 },
    Format::Affine { bits: 4, group: 64 },
    Format::Affine { bits: 4, group: 32 },
    Format::Affine { bits: 3, group: 64 },
    Format::Affine { bits: 2, group: 64 },
    Format::Rotated { half_bits: 7 },
    Format::Rotated { half_bits: 8 },
    Format::Channel { bits: 4, group: 32 },
];

fn bits(format: Format) -> f64 {
    format.bits_per_number(128, crate::quant::Element::Bfloat16)
}

/// Keys suffer more than values, and the first layers more than the last.
fn falling(geometry: &Geometry) -> Profile {
    profile(geometry, &FORMATS, |layer, part, format| {
        let sensitivity = if part == Part::Keys { 4.0 } else { 1.0 } / (1.0 + f64::from(u32::try_from(layer).unwrap()));
        sensitivity * (-bits(format)).exp2()
    })
}

fn resolved(text: &str, geometry: &Geometry, profile: &Profile) -> Resolved {
    parsed(text).resolve(geometry, Some(profile)).unwrap_or_else(|error| panic!("{error}"))
}

fn share(found: &Resolved, geometry: &Geometry) -> f64 {
    let (bytes, plain) = (found.live_bytes(geometry, 1 << 20).total, found.plain_bytes(geometry, 1 << 20).total);
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    (bytes as f64 / plain as f64)
}

#[test]
fn a_share_is_kept_and_spent_where_it_matters() {
    let geometry = plain_model(8);
    let measured = falling(&geometry);
    let found = resolved("auto:0.35", &geometry, &measured);
    let held = share(&found, &geometry);
    assert!((0.33..=0.35).contains(&held), "{held}");
    let of = |layer: usize| found.layers[layer].caches[0].unwrap().live;
    assert!(bits(of(0).k) > bits(of(7).v), "{} {}", of(0).k, of(7).v);
    // The whole of it is plain: nothing is lost.
    assert_eq!(resolved("auto:1", &geometry, &measured).policy.to_string(), "16");
    assert_eq!(measured.predicted_kl(&resolved("auto:1", &geometry, &measured), false), Some(0.0));
}

#[test]
fn a_policy_that_was_measured_as_a_whole_is_believed_before_a_sum() {
    let geometry = plain_model(4);
    let mut measured = falling(&geometry);
    let pieced = |text: &str, kl: f64, kl_of_pieces| Whole { policy: parsed(text), kl, kl_of_pieces };
    let whole = |text: &str, kl: f64| pieced(text, kl, vec![kl; 16]);
    measured.wholes = vec![
        whole("affine:8:64", 0.001),
        whole("affine:4:64", 0.05),
        whole("channel:4:32+affine:4:64", 0.01),
        whole("affine:4:64,0:affine:8:64", 0.02),
        whole("affine:3:64", 0.3),
        whole("affine:5:64", 0.0001), // no layer was measured at it
    ];
    let found = |text: &str| resolved(text, &geometry, &measured).policy.to_string();
    assert_eq!(found("auto:0.6"), parsed("affine:8:64").to_string());
    assert_eq!(found("auto:0.35"), parsed("channel:4:32+affine:4:64").to_string());
    assert_eq!(found("auto:0.29"), parsed("affine:4:64").to_string());
    assert_eq!(found("auto:1"), "16");
    // Layers with formats of their own must be clearly better: what was measured is of one text.
    measured.wholes.push(whole("channel:4:32+affine:4:64,0:affine:8:64", 0.006));
    let found = |text: &str, measured: &Profile| resolved(text, &geometry, measured).policy.to_string();
    assert_eq!(found("auto:0.4", &measured), parsed("channel:4:32+affine:4:64").to_string());
    measured.wholes.push(whole("channel:4:32+affine:4:64,1:affine:8:64", 0.004));
    assert_eq!(found("auto:0.4", &measured), parsed("channel:4:32+affine:4:64,1:affine:8:64").to_string());
    // What most of the text does not show is luck, however good the mean.
    let mut lucky = vec![0.02; 3];
    lucky.extend([0.0005; 13]);
    measured.wholes.push(pieced("channel:4:32+affine:4:64,2:affine:8:64", 0.001, lucky.clone()));
    measured.wholes.push(pieced("channel:4:32+affine:4:64,3:affine:8:64", 0.0005, Vec::new()));
    assert_eq!(found("auto:0.4", &measured), parsed("channel:4:32+affine:4:64,1:affine:8:64").to_string());
    lucky[0] = 0.0005;
    measured.wholes.push(pieced("channel:4:32+affine:4:64,2:affine:8:64", 0.001, lucky));
    assert_eq!(found("auto:0.4", &measured), parsed("channel:4:32+affine:4:64,2:affine:8:64").to_string());
    // Where none fits there is the sum still.
    assert!(share(&resolved("auto:0.2", &geometry, &measured), &geometry) <= 0.2);
    // What is asked for stays, whatever else is chosen.
    assert_eq!(found("auto:0.48,2:16", &measured), parsed("channel:4:32+affine:4:64,2:16").to_string());
}

#[test]
fn what_is_found_is_written_out_and_reads_as_the_same() {
    let geometry =
        model((0..6).map(|layer| if layer % 3 == 2 { Cache::State { bytes: 0 } } else { Cache::Sequence(kv(8, 128)) }));
    let measured = falling(&geometry);
    for text in ["auto:0.3,first=4,recent=64", "auto:0.3/8", "16/auto:0.3", "auto:0.5/auto:0.2", "auto:0.5,0:16"] {
        let found = resolved(text, &geometry, &measured);
        let written = found.policy.to_string();
        assert!(!written.contains("auto"), "{written}");
        assert_eq!(parsed(&written).resolve(&geometry, None).unwrap(), found, "{text}: {written}");
    }
}

#[test]
fn bytes_at_a_context_count_all_that_is_live() {
    let windows = Cache::Window { kv: kv(8, 128), window_tokens: 1000 };
    let geometry =
        model([windows, Cache::Sequence(kv(8, 128)), Cache::Sequence(kv(8, 128)), Cache::State { bytes: 0 }]);
    let measured = falling(&geometry);
    for text in ["auto:12MiB@4k", "auto:12MiB@4k,first=4,recent=256", "auto:20MB@4096"] {
        let found = resolved(text, &geometry, &measured);
        let limit = if text.contains("MiB") { 12 << 20 } else { 20_000_000 };
        let bytes = found.live_bytes(&geometry, 4096).total;
        assert!(bytes <= limit && bytes > limit / 10 * 9, "{text}: {bytes}");
    }
    let rest = resolved("16/auto:16MiB@4k", &geometry, &measured);
    assert!(rest.rest_bytes(&geometry, 4096).total <= 16 << 20);
    assert_eq!(rest.live_bytes(&geometry, 4096), rest.plain_bytes(&geometry, 4096));
}

#[test]
fn windows_take_the_share_of_the_others_at_rest() {
    let windows = Cache::Window { kv: kv(8, 128), window_tokens: 1000 };
    let geometry = model([windows, Cache::Sequence(kv(8, 128)), windows, Cache::Sequence(kv(8, 128))]);
    let found = resolved("auto:0.4", &geometry, &falling(&geometry));
    let rest = found.rest_bytes(&geometry, 256);
    let plain = 256 * 4096;
    assert!(rest.layers[0] + rest.layers[2] <= rest.layers[1] + rest.layers[3]);
    assert!(rest.layers[0] + rest.layers[2] > plain / 4);
    assert!(found.layers[0].caches[0].unwrap().live.k == Format::Plain);
    // With formats of its own for the store, the share is of the running caches alone.
    let apart = resolved("auto:0.4/8", &geometry, &falling(&geometry));
    assert_eq!(apart.layers[0].caches[0].unwrap().rest.k, affine(8));
    // Calibration measures no windows, for they run plain: they are taken to be like the others.
    let mut unmeasured = falling(&geometry);
    unmeasured.layers[0] = None;
    unmeasured.layers[2] = None;
    for policy in ["auto:0.4", "16/auto:0.4", "auto:0.4/auto:0.4"] {
        let rest = resolved(policy, &geometry, &unmeasured).rest_bytes(&geometry, 256);
        assert!(rest.total <= 4 * plain * 4 / 10, "{policy}: {}", rest.total);
        assert!(rest.layers[0] + rest.layers[2] > plain / 4, "{policy}");
    }
    // Nothing grows: the share is of what the store keeps.
    let only = model([windows, windows]);
    let found = resolved("auto:0.4", &only, &falling(&only));
    assert!(found.rest_bytes(&only, 256).total <= 2 * plain * 4 / 10);
    assert_eq!(found.live_bytes(&only, 256).total, 2 * plain);
}

#[test]
fn layers_with_formats_of_their_own_keep_them() {
    let geometry = plain_model(6);
    let found = resolved("auto:0.5,0-1:16,5:2", &geometry, &falling(&geometry));
    let live = |layer: usize| found.layers[layer].caches[0].unwrap().live;
    assert_eq!((live(0).k, live(1).v, live(5).k), (Format::Plain, Format::Plain, affine(2)));
    assert!(share(&found, &geometry) <= 0.5);
}

#[test]
fn a_budget_that_cannot_be_met_says_the_smallest_that_can() {
    let geometry = plain_model(4);
    let measured = falling(&geometry);
    for text in ["auto:0.1", "auto:100KiB@8k", "auto:1B@128k,recent=64", "auto:0.2,0-2:16", "16/auto:0.01"] {
        let error = parsed(text).resolve(&geometry, Some(&measured)).expect_err(text);
        let PolicyError::BudgetTooSmall { budget, smallest } = error else { panic!("{text}: {error}") };
        assert!(error.to_string().contains(&format!("the smallest possible is `auto:{smallest}`")), "{error}");
        let enough = text.replace(&format!("auto:{budget}"), &format!("auto:{smallest}"));
        resolved(&enough, &geometry, &measured);
    }
}

#[test]
fn what_the_profile_lacks_is_named() {
    let geometry = plain_model(4);
    let measured = falling(&geometry);
    let refused = |text: &str, geometry: &Geometry, profile: Option<&Profile>| {
        parsed(text).resolve(geometry, profile).expect_err(text).to_string()
    };
    let without = refused("auto:0.35", &geometry, None);
    assert!(without.contains("`auto:0.35` needs the model's profile"), "{without}");
    assert!(without.contains("hwledger-omlx kv calibrate MODEL --text FILE"), "{without}");
    let fewer = refused("auto:0.35", &plain_model(5), Some(&measured));
    assert!(fewer.contains("it has 4 layers, and the model 5"), "{fewer}");
    let named = |model: &str| Geometry { model: Some(model.to_owned()), ..geometry.clone() };
    let other = refused("auto:0.35", &named("ff"), Some(&measured));
    assert!(other.contains("it is of the model ab01, and this is ff"), "{other}");
    resolved("auto:0.35", &named("AB01"), &measured);
    let mut gap = measured.clone();
    gap.layers[2].as_mut().unwrap().v.clear();
    assert!(refused("auto:0.35", &geometry, Some(&gap)).contains("layer 2: V was not measured"));
    resolved("auto:0.35,2:4", &geometry, &gap);
    // A policy without `auto` asks for no profile, and none that is of another model harms it.
    assert_eq!(resolved("8", &plain_model(5), &measured).policy, parsed("8"));
}

#[test]
fn a_profile_reads_back_and_must_be_possible() {
    let geometry = plain_model(2);
    // Harms that decimal digits say exactly.
    let measured = profile(&geometry, &FORMATS, |layer, _, _| if layer == 0 { 0.25 } else { 0.5 });
    let json = serde_json::to_string(&measured).unwrap();
    assert_eq!(Profile::from_json(&json).unwrap(), measured);
    assert!(sorted(measured.measured(0, Part::Keys).unwrap()).contains_key("rotated:3.5"));
    assert!(!sorted(measured.measured(0, Part::Values).unwrap()).contains_key("channel:4:32"));
    let wrong = [
        (json.replace("\"version\":1", "\"version\":2"), "it is of version 2, and this program reads 1"),
        (json.replace("ab01", "xyz"), "model is no hexadecimal digest"),
        (json.replace("affine:8:64", "affine:7:64"), "affine has 8"),
        (json.replace("affine:8:64", "affine:8"), "write `affine:8:64`"),
        (json.replacen("\"kl\":", "\"kl\":-", 1), "layer 0: K: `affine:2:64`: kl and error are 0 or above"),
        (json.replace("\"v\":{", "\"v\":{\"channel:4:64\":{\"kl\":0,\"error\":0},"), "V: `channel:4:64` is for keys"),
        (json.replace("\"tokens\"", "\"token\""), "unknown field `token`"),
        (json[..json.len() - 1].to_owned(), "EOF"),
    ];
    for (text, said) in wrong {
        let message = Profile::from_json(&text).expect_err(said).to_string();
        assert!(message.starts_with("KV profile: ") && message.contains(said), "{message}");
    }
}

/// The harm of every part and format.
fn harms(layers: usize) -> impl Strategy<Value = Vec<f64>> {
    vec(prop_oneof![4 => 0.0..1.0_f64, 1 => Just(0.0)], layers * 2 * FORMATS.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The promise of `auto`, whatever was measured.
    #[test]
    fn no_uniform_policy_that_fits_is_predicted_better(
        harms in harms(12), share in 0.15..1.0_f64, at_bytes in any::<bool>(), at_rest in any::<bool>()
    ) {
        let geometry = model((0..12).map(|layer| Cache::Sequence(kv(if layer < 6 { 8 } else { 3 }, 128))));
        let index = |format| FORMATS.iter().position(|each| *each == format).unwrap();
        let measured = profile(&geometry, &FORMATS, |layer, part, format| {
            harms[(layer * 2 + usize::from(part == Part::Keys)) * FORMATS.len() + index(format)]
        });
        let tokens = 4096;
        let plain = parsed("16").resolve(&geometry, None).unwrap().plain_bytes(&geometry, tokens).total;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let limit = (plain as f64 * share) as u64;
        let budget = if at_bytes { format!("auto:{limit}B@{tokens}") } else { format!("auto:{share}") };
        let text = |formats: &str| if at_rest { format!("16/{formats}") } else { formats.to_owned() };
        let bytes = |found: &Resolved| {
            let bytes = if at_rest { found.rest_bytes(&geometry, tokens) } else { found.live_bytes(&geometry, tokens) };
            bytes.total
        };
        let found = parsed(&text(&budget)).resolve(&geometry, Some(&measured));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                prop_assert!(matches!(error, PolicyError::BudgetTooSmall { .. }), "{}", error);
                return Ok(());
            }
        };
        prop_assert!(bytes(&found) <= limit);
        let predicted = measured.predicted_kl(&found, at_rest).unwrap();
        let all: Vec<Format> = FORMATS.into_iter().chain([Format::Plain]).collect();
        for (k, v) in all.iter().flat_map(|k| all.iter().map(move |v| (*k, *v))) {
            if super::is_channel(v) {
                continue;
            }
            let uniform: KvPolicy = parsed(&text(&format!("{k}+{v}")));
            let uniform = uniform.resolve(&geometry, None).unwrap();
            if bytes(&uniform) <= limit {
                let other = measured.predicted_kl(&uniform, at_rest).unwrap();
                prop_assert!(predicted <= other + 1e-9, "{}: {} against {}+{}: {}", found.policy, predicted, k, v, other);
            }
        }
    }
}
