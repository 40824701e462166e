//! What changes a fingerprint and what does not, and that the memo is never believed wrongly.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Fingerprint, IdentityError, fingerprint, fingerprint_at, namespace_key};

fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("model-00001-of-00002.safetensors", "first shard"),
        ("model-00002-of-00002.safetensors", "second shard"),
        ("config.json", r#"{"rope_theta": 10000.0}"#),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", r#"{"chat_template": "a", "bos": 1}"#),
        ("merges.txt", "a b"),
        ("generation_config.json", r#"{"top_p": 1}"#),
        ("chat_template.jinja", "{{ x }}"),
        ("README.md", "hello"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn digest(folder: &Path) -> [u8; 32] {
    fingerprint(folder, None, None).unwrap().digest
}

/// Long after whatever the test has just written.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn with_memo(folder: &Path, memo: &Path) -> Fingerprint {
    fingerprint_at(folder, None, Some(memo), later()).unwrap()
}

#[test]
fn every_file_that_matters_changes_it() {
    let folder = model();
    let before = digest(folder.path());
    assert_eq!(digest(model().path()), before, "the folder's own path does not matter");
    for (name, content) in [
        ("model-00002-of-00002.safetensors", "second shard!"),
        ("config.json", r#"{"rope_theta": 20000.0}"#),
        ("tokenizer.json", "{ }"),
        ("tokenizer_config.json", r#"{"chat_template": "a", "bos": 2}"#),
        ("merges.txt", "a c"),
        ("modeling.py", "x = 1"),
        ("model-00003.safetensors", ""),
        ("weights.GGUF", "1"),
    ] {
        let path = folder.path().join(name);
        let original = fs::read(&path).ok();
        fs::write(&path, content).unwrap();
        assert_ne!(digest(folder.path()), before, "{name}");
        match original {
            Some(original) => fs::write(&path, original).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
    assert_eq!(digest(folder.path()), before);
    let renamed = folder.path().join("renamed.safetensors");
    fs::rename(folder.path().join("model-00001-of-00002.safetensors"), renamed).unwrap();
    assert_ne!(digest(folder.path()), before);
}

#[test]
fn how_to_sample_and_how_to_word_a_prompt_does_not() {
    let folder = model();
    let before = digest(folder.path());
    for (name, content) in [
        ("generation_config.json", "{}"),
        ("chat_template.jinja", "{{ y }}"),
        ("chat_template.json", "{}"),
        ("README.md", "other"),
        (".gitattributes", ""),
        ("tokenizer_config.json", r#"{"chat_template": "b", "bos": 1}"#),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
        assert_eq!(digest(folder.path()), before, "{name}");
    }
    fs::create_dir(folder.path().join("original.bin")).unwrap();
    assert_eq!(digest(folder.path()), before);
}

#[test]
fn an_adapter_counts_and_is_not_taken_for_the_model() {
    let folder = model();
    let adapter = tempfile::tempdir().unwrap();
    fs::write(adapter.path().join("adapters.safetensors"), "1").unwrap();
    let with = fingerprint(folder.path(), Some(adapter.path()), None).unwrap();
    assert_ne!(with.digest, digest(folder.path()));
    fs::write(folder.path().join("adapters.safetensors"), "1").unwrap();
    assert_ne!(with.digest, digest(folder.path()));
    let missing = fingerprint(folder.path(), Some(&adapter.path().join("not there")), None);
    assert!(matches!(missing, Err(IdentityError::Read { .. })));
    let one_file = folder.path().join("adapters.safetensors");
    assert_eq!(fingerprint(&one_file, None, None).unwrap().files, 1);
}

#[test]
fn a_folder_without_weights_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(matches!(fingerprint(folder.path(), None, None), Err(IdentityError::NoWeights { .. })));
}

#[test]
fn a_byte_in_any_piece_of_a_large_file_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut content = vec![0_u8; 40 * 1024 * 1024 + 3];
    fs::write(&path, &content).unwrap();
    let mut seen = vec![digest(folder.path())];
    for position in [0, 16 * 1024 * 1024, content.len() - 1] {
        content[position] = 1;
        fs::write(&path, &content).unwrap();
        let now = digest(folder.path());
        assert!(!seen.contains(&now));
        seen.push(now);
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_to_what_they_lead_to() {
    let folder = model();
    let blobs = tempfile::tempdir().unwrap();
    let before = digest(folder.path());
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    let blob = blobs.path().join("blob");
    fs::rename(&shard, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, &shard).unwrap();
    assert_eq!(digest(folder.path()), before);
    fs::write(&blob, "other").unwrap();
    assert_ne!(digest(folder.path()), before);
    fs::remove_file(&blob).unwrap();
    assert!(matches!(fingerprint(folder.path(), None, None), Err(IdentityError::Read { .. })));
}

#[cfg(unix)]
#[test]
fn the_second_time_reads_only_what_has_changed() {
    let folder = model();
    let place = tempfile::tempdir().unwrap();
    let memo = place.path().join("memo");
    let first = with_memo(folder.path(), &memo);
    assert_eq!(first.hashed_bytes, first.bytes);
    let second = with_memo(folder.path(), &memo);
    assert_eq!((second.digest, second.hashed_bytes), (first.digest, 0));
    // Another file of the same size under the old name.
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    fs::write(place.path().join("new"), "First shard").unwrap();
    fs::rename(place.path().join("new"), &shard).unwrap();
    let third = with_memo(folder.path(), &memo);
    assert_eq!(third.hashed_bytes, 11);
    assert_eq!(third.digest, digest(folder.path()));
    assert_ne!(third.digest, first.digest);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside the memo");
}

#[cfg(unix)]
#[test]
fn what_has_just_changed_is_not_remembered() {
    let folder = model();
    let place = tempfile::tempdir().unwrap();
    let memo = place.path().join("memo");
    let written = fs::metadata(folder.path().join("README.md")).unwrap().modified().unwrap();
    let first = fingerprint_at(folder.path(), None, Some(&memo), written).unwrap();
    let second = fingerprint_at(folder.path(), None, Some(&memo), written).unwrap();
    assert_eq!((second.digest, second.hashed_bytes), (first.digest, first.bytes));
}

#[cfg(unix)]
#[test]
fn a_damaged_or_unwritable_memo_is_none() {
    let folder = model();
    let place = tempfile::tempdir().unwrap();
    let memo = place.path().join("memo");
    let first = with_memo(folder.path(), &memo);
    let whole = fs::read(&memo).unwrap();
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x40;
        fs::write(&memo, damaged).unwrap();
        let again = with_memo(folder.path(), &memo);
        assert_eq!((again.digest, again.hashed_bytes), (first.digest, first.bytes), "byte {position}");
    }
    for length in [0, 8, 40, whole.len() - 1] {
        fs::write(&memo, &whole[..length]).unwrap();
        assert_eq!(with_memo(folder.path(), &memo).hashed_bytes, first.bytes);
    }
    let nowhere = place.path().join("no folder").join("memo");
    assert_eq!(with_memo(folder.path(), &nowhere).digest, first.digest);
}

proptest! {
    #[test]
    fn other_fields_give_another_key(
        one in prop::collection::vec(("[ab]{0,2}", prop::collection::vec(0_u8..2, 0..3)), 0..4),
        other in prop::collection::vec(("[ab]{0,2}", prop::collection::vec(0_u8..2, 0..3)), 0..4),
    ) {
        let key = |fields: &[(String, Vec<u8>)]| namespace_key(fields.iter().map(|(label, value)| (&**label, &**value)));
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}
