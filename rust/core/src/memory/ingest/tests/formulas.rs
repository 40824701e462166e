//! The table is sound, and formulas come to what they say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::super::config::Config;
use super::super::error::IngestError;
use super::super::evaluate::Scope;
use super::super::families::Table;
use super::super::formula::Formula;

#[test]
fn every_rule_of_the_table_names_what_there_is() {
    let table = Table::built_in();
    for family in &table.families {
        for rule in family.layers.iter().chain(&family.before).chain(&family.again) {
            assert!(table.kinds.contains_key(&rule.is), "no kind of layer `{}`", rule.is);
        }
    }
    for kind in table.kinds.values() {
        for cache in &kind.caches {
            assert!(table.caches.contains_key(cache), "no cache `{cache}`");
        }
    }
    let mut types: Vec<&str> = table.types().collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), all, "a model_type stands in two families");
}

fn size(formula: &str) -> Result<u64, IngestError> {
    let config = json!({
        "model_type": "x", "heads": 12, "wide": 96.0, "absent": null, "kinds": ["a", "b"], "letters": "M*-", "deep": {"er": 7},
        "blocks": [{"no_op": true}, {}], "negative": -3, "half": 0.5,
    });
    let config = Config::of_json(config).unwrap();
    let named: BTreeMap<String, Formula> = [("own", "$heads + 1"), ("round", "round")]
        .map(|(name, text)| (name.to_owned(), Formula::parse(text).unwrap()))
        .into();
    let none = BTreeMap::new();
    let scope = Scope::new(&config, [&named, &none]);
    let formula = Formula::parse(formula).unwrap();
    scope.of_layer(1).size(&formula)
}

#[test]
fn formulas_come_to_what_they_say() {
    let right = [
        ("$wide / $heads", 8),
        ("$absent ?? $missing ?? 5", 5),
        ("$missing / 2 ?? 3", 3),
        ("own * 2", 26),
        ("$deep.er % 4", 3),
        ("layer == 1 ? 10 : 20", 10),
        ("$kinds[layer] == 'b' ? 1 : 0", 1),
        ("$letters[layer] == '*' and not ('c' in $kinds) ? 1 : 0", 1),
        ("len($letters) + len($kinds)", 5),
        ("$blocks[0].no_op ? 1 : 2", 1),
        ("$blocks[1].no_op ?? false ? 1 : 2", 2),
        ("1 + 2 * 3 - (4 - 2)", 5),
        ("2 <= 2 or $missing ? 4 : 5", 4),
    ];
    for (formula, wanted) in right {
        assert_eq!(size(formula).unwrap(), wanted, "{formula}");
    }
}

#[test]
fn what_a_formula_cannot_say_is_an_error_that_says_why() {
    let wrong = [
        ("$missing", "says none of `missing`"),
        ("$heads / 0", "divided by 0"),
        ("$negative", "below 0"),
        ("$half", "it comes to 0.5, which is no whole number"),
        ("$letters", r#"it comes to "M*-", which is"#),
        ("$deep", "it comes to an object"),
        ("$kinds[5]", "no place 5"),
        ("$kinds + 1", "not both whole numbers"),
        ("round", "hangs on itself"),
        ("nothing", "no formula `nothing`"),
        ("$heads * 9223372036854775807", "too large"),
        ("$heads ? 1 : 2", "neither true nor false"),
    ];
    for (formula, why) in wrong {
        let error = size(formula).unwrap_err().to_string();
        assert!(error.contains(why), "{formula}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_and_no_configuration_makes_a_formula_panic(text in r"[$a-z0-9 ?:()\[\].'+*/%<=>-]{0,40}") {
        if let Ok(formula) = Formula::parse(&text) {
            let config = Config::of_json(json!({"model_type": "x", "a": 3, "b": [1, 2], "c": "text"})).unwrap();
            let none = BTreeMap::new();
            let _ = Scope::new(&config, [&none, &none]).of_layer(0).size(&formula);
        }
    }
}
