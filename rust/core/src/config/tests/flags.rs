//! Which flags of a command line are settings.

use serde_json::json;

use super::super::Flags;

#[test]
fn settings_are_found_among_all_else() {
    let line = "MODEL --port 9 --config=a.toml --max-calls 5 --no-cache --kv=k8v4,0-1:16 --restart-stuck -- --host";
    let line: Vec<_> = line.split(' ').map(str::to_owned).collect();
    let flags = Flags::of(&line);
    assert_eq!(flags.config.as_deref(), Some("a.toml".as_ref()));
    let said = [("--port", json!("9")), ("--no-cache", json!("off")), ("--kv", json!("k8v4,0-1:16"))];
    let said = said.into_iter().chain([("--restart-stuck", json!(true))]);
    assert_eq!(flags.settings, said.map(|(flag, value)| (flag.to_owned(), value)).collect::<Vec<_>>());
}

#[test]
fn a_flag_at_the_end_without_its_value_is_left_to_others() {
    assert_eq!(Flags::of(&["--port".to_owned()]), Flags::default());
}
