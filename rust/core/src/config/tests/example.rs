//! `hwledger.example.toml` has every setting, says nothing but the defaults, and holds once the comments are taken off.

use super::super::{Loaded, NAMES, Sources};
use super::{load, repository, told};

fn example() -> String {
    std::fs::read_to_string(repository("hwledger.example.toml")).unwrap()
}

/// The lines that say something, those that are commented out too.
fn said(text: &str) -> String {
    let uncommented = text.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_said = bare.starts_with('[') || bare.split_once(" = ").is_some_and(|(key, _)| is_key(key));
        if is_said { bare } else { "" }
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

fn is_key(word: &str) -> bool {
    word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

#[test]
fn as_it_is_it_changes_nothing() {
    let (given, none) = (load(&example(), &[], &[]).unwrap(), Loaded::load(&Sources::default()).unwrap());
    assert_eq!(given.config, none.config);
}

#[test]
fn it_has_every_setting_in_its_order_and_each_can_be() {
    let loaded = load(&said(&example()), &[], &[]).unwrap();
    let mut last = 0;
    for name in NAMES {
        let (_, origin) = told(&loaded, name.name);
        let line: usize = origin
            .strip_prefix("hwledger.toml:")
            .unwrap_or_else(|| panic!("{} is missing", name.name))
            .parse()
            .unwrap();
        assert!(line > last, "{} stands before what it comes after", name.name);
        last = line;
    }
    assert!(loaded.entries.len() > NAMES.len(), "it shows no model");
}
