//! Which layer wins, and what is said of it.

use proptest::prelude::*;
use serde_json::json;

use super::super::{Loaded, NAMES, Sources, Takes};
use super::{load, told};

/// A value as TOML, as text, and as JSON.
type Written = (&'static str, &'static str, &'static str);

/// Settings of each type, each with two values.
const SETTINGS: &[(&str, [Written; 2])] = &[
    ("server.host", [("\"::1\"", "::1", "\"::1\""), ("\"localhost\"", "localhost", "\"localhost\"")]),
    ("server.port", [("9000", "9000", "9000"), ("0", " 0 ", "0")]),
    ("server.shutdown_seconds", [("3", "3", "3.0"), ("0.5", "0.5", "0.5")]),
    ("server.models", [("[\"a\", \"b\"]", "a, b", "[\"a\",\"b\"]"), ("[]", ",", "[]")]),
    ("server.sse_keepalive_mode", [("\"off\"", "OFF", "\"off\""), ("\"chunk\"", "chunk", "\"chunk\"")]),
    ("engine.kv", [("\"k8v4\"", "k8v4", "\"k8v4\""), ("4", "4", "\"4\"")]),
    ("engine.ledger", [("false", "false", "false"), ("true", "true", "true")]),
    ("cache.quota_bytes", [("\"2GiB\"", "2GiB", "2147483648"), ("5", "5", "5")]),
    ("cache.kind", [("\"fork\"", "fork", "\"fork\""), ("\"off\"", "off", "\"off\"")]),
    ("sampling.top_p", [("1", "1", "1.0"), ("0.25", "0.25", "0.25")]),
    ("sampling.top_k", [("0", "0", "0"), ("40", "40", "40")]),
    ("sampling.force_sampling", [("true", "yes", "true"), ("false", "0", "false")]),
    ("log.level", [("\"debug\"", "Debug", "\"debug\""), ("\"warn\"", "warn", "\"warning\"")]),
];

proptest! {
    #[test]
    fn the_strongest_layer_that_says_something_wins(
        said in prop::collection::vec((prop::option::of(0..2_usize), prop::option::of(0..2_usize), prop::option::of(0..2_usize)), SETTINGS.len())
    ) {
        let mut lines: Vec<String> = Vec::new();
        let (mut variables, mut flags) = (Vec::new(), Vec::new());
        let mut expected = Vec::new();
        let none = Loaded::load(&Sources::default()).unwrap();
        for ((name, values), (in_file, in_variable, in_flag)) in SETTINGS.iter().zip(&said) {
            let known = NAMES.iter().find(|each| each.name == *name).unwrap();
            let mut winner = told(&none, name);
            if let Some(at) = in_file {
                // Dotted keys and sections say the same.
                lines.push(format!("{name} = {}", values[*at].0));
                winner = (serde_json::from_str(values[*at].2).unwrap(), format!("hwledger.toml:{}", lines.len()));
            }
            if let Some(at) = in_variable {
                variables.push((known.variable, values[*at].1));
                winner = (serde_json::from_str(values[*at].2).unwrap(), known.variable.to_owned());
            }
            if let (Some(at), Some(flag)) = (in_flag, known.flags.last()) {
                flags.push((*flag, json!(values[*at].1.trim())));
                winner = (serde_json::from_str(values[*at].2).unwrap(), (*flag).to_owned());
            }
            expected.push((*name, winner));
        }
        let loaded = load(&lines.join("\n"), &variables, &flags).unwrap();
        for (name, winner) in expected {
            prop_assert_eq!(told(&loaded, name), winner, "{}", name);
        }
        // What nobody has said is as by default.
        for entry in &loaded.entries {
            if SETTINGS.iter().all(|(name, _)| entry.name != *name) {
                prop_assert_eq!(entry.origin.to_string(), "default");
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n){0,200}") {
        let _ = load(&text, &[("HWLEDGER_OMLX_PORT", &text), ("HWLEDGER_OMLX_KV", &text)], &[]);
        let _ = load("", &[("HWLEDGER_OMLX_KV", &text)], &[]);
    }
}

#[test]
fn nothing_said_is_the_default_of_every_setting() {
    let loaded = Loaded::load(&Sources::default()).unwrap();
    assert_eq!(loaded.entries.len(), NAMES.len());
    assert_eq!(told(&loaded, "server.port"), (json!(8000), "default".to_owned()));
    assert_eq!(told(&loaded, "cache.quota_bytes"), (json!(null), "default".to_owned()));
}

#[test]
fn every_setting_has_a_name_a_variable_and_a_place() {
    // A setting that NAMES forgets could be given in the file and would not be shown.
    let json = serde_json::to_value(super::super::Config::default()).unwrap();
    let mut settings: Vec<String> = Vec::new();
    for (section, fields) in json.as_object().unwrap().iter().filter(|(section, _)| *section != "models") {
        settings.extend(fields.as_object().unwrap().keys().map(|key| format!("{section}.{key}")));
    }
    let mut named: Vec<String> = NAMES.iter().map(|name| name.name.to_owned()).collect();
    settings.sort();
    named.sort();
    assert_eq!(settings, named);
    let mut variables: Vec<_> = NAMES.iter().map(|name| name.variable).collect();
    let mut flags: Vec<_> = NAMES.iter().flat_map(|name| name.flags).collect();
    variables.sort_unstable();
    flags.sort_unstable();
    assert!(variables.windows(2).all(|pair| pair[0] != pair[1]) && flags.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_model_has_its_section_and_each_value_its_line() {
    let text = "[models.\"Qwen3-0.6B\"]\ntemperature = 0.6\nkv = { live = \"k8v4\", recent_tokens = 128 }\n\
                [models.notes.chat_template_kwargs]\nstyle = { terse = true, words = [1, 2.5] }\n\
                [models.notes]\nmtp_enabled = true\n";
    let loaded = load(text, &[], &[]).unwrap();
    let said: Vec<_> = loaded.entries[NAMES.len()..].iter().map(|entry| (entry.name.as_str(), entry.takes)).collect();
    assert_eq!(
        said,
        [
            ("models.\"Qwen3-0.6B\".kv", Takes::Now),
            ("models.\"Qwen3-0.6B\".temperature", Takes::Now),
            ("models.notes.chat_template_kwargs", Takes::Now),
            ("models.notes.mtp_enabled", Takes::Loading),
        ]
    );
    assert_eq!(told(&loaded, "models.\"Qwen3-0.6B\".kv"), (json!("k8v4,recent=128"), "hwledger.toml:3".to_owned()));
    let kwargs = json!({"style": {"terse": true, "words": [1, 2.5]}});
    assert_eq!(told(&loaded, "models.notes.chat_template_kwargs"), (kwargs, "hwledger.toml:4".to_owned()));
}

#[test]
fn a_path_of_the_file_is_one_of_its_folder_and_a_model_of_the_hub_is_none() {
    let text = "[server]\nmodels = [\"org/model\", \"./mine\"]\nmodel_dirs = [\"all\", \"/abs\"]\n\
                [cache]\ndir = \"kv\"\n[engine]\nkv = \"policies/p.toml\"\nledger = \"rows.sqlite\"\n";
    let loaded = load(text, &[("HWLEDGER_OMLX_FORK", "checkout")], &[]).unwrap();
    let within = |name: &str| told(&loaded, name).0.as_str().unwrap().to_owned();
    let folder = within("cache.dir").strip_suffix("/kv").unwrap().to_owned();
    assert!(std::path::Path::new(&folder).is_absolute());
    assert_eq!(told(&loaded, "server.models").0, json!(["org/model", format!("{folder}/./mine")]));
    assert_eq!(told(&loaded, "server.model_dirs").0, json!([format!("{folder}/all"), "/abs"]));
    assert_eq!(within("engine.kv"), format!("{folder}/policies/p.toml"));
    assert_eq!(within("engine.ledger"), format!("{folder}/rows.sqlite"));
    assert_eq!(within("engine.fork"), "checkout"); // of the folder that the program is in
}

#[test]
fn an_empty_variable_says_nothing_and_a_misspelt_one_is_pointed_out() {
    let variables =
        [("HWLEDGER_OMLX_PORT", " "), ("HWLEDGER_OMLX_PROT", "1"), ("HWLEDGER_OMLX_CONFIG", "x"), ("PATH", "/bin")];
    let loaded = load("", &variables, &[]).unwrap();
    assert_eq!(told(&loaded, "server.port").1, "default");
    assert_eq!(loaded.warnings, ["HWLEDGER_OMLX_PROT is no setting; did you mean HWLEDGER_OMLX_PORT?"]);
}
