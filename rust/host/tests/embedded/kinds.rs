//! Models that do something else than go on with a text: they call tools, see, listen and speak.

use hwledger_omlx_host::{Audio, EngineConfig, FinishReason, GenerateRequest};
use serde_json::{Value, json};

use super::engine::collect;
use super::{config, host, support};

pub(crate) async fn a_tool_is_called_and_its_result_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let caller = folder.path().join("caller");
    let caller = caller.to_str().expect("UTF-8");
    support::python_of_tests(
        "import pathlib, client_models\nclient_models.write_caller(pathlib.Path(sys.argv[1]))",
        &[caller],
    );
    let engine = host().engine(EngineConfig::new(caller)).await.expect("an engine");
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let asked = GenerateRequest::chat().message("user", "Weather?").temperature(0.0).max_tokens(50).tool(
        "weather",
        "The weather of a city.",
        &parameters,
    );
    let (_, result) = collect(engine.generate(asked.clone())).await.expect("a generation");
    assert_eq!((result.text.as_str(), result.finish_reason), ("", FinishReason::ToolCalls), "{result:?}");
    let [call] = &result.tool_calls[..] else { panic!("{result:?}") };
    let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
    assert_eq!((call.name.as_str(), arguments), ("weather", json!({"city": "Rome"})));
    assert!(!call.id.is_empty());
    let (_, told) = collect(engine.generate(asked.message("tool", "sunny"))).await.expect("a generation");
    assert_eq!((told.text.as_str(), told.tool_calls.len()), ("It is sunny.", 0));
    engine.close().await.expect("closed");
}

pub(crate) async fn images_sound_and_speech() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    support::python_of_tests(
        "import base64, pathlib, tiny_kinds\n\
         root = pathlib.Path(sys.argv[1])\n\
         tiny_kinds.vision(root / 'seer')\n\
         tiny_kinds.transcription(root / 'listener')\n\
         tiny_kinds.speech(root / 'speaker')\n\
         (root / 'tone.wav').write_bytes(tiny_kinds.wav())\n\
         for colour in ('red', 'blue'):\n\
         \x20   _, data = tiny_kinds.picture(colour)['image_url']['url'].split(',')\n\
         \x20   (root / colour).write_bytes(base64.b64decode(data))",
        &[folder.path().to_str().expect("UTF-8")],
    );
    let engine = host().engine(EngineConfig { cache: None, ..config() }).await.expect("an engine");
    for name in ["seer", "listener", "speaker"] {
        assert_eq!(engine.load(at(name).to_string_lossy()).await.expect("loaded"), name);
    }

    let mut seen = Vec::new();
    for colour in ["red", "blue", "red"] {
        let image = std::fs::read(at(colour)).expect("a picture");
        let asked = GenerateRequest::chat().message_with_images("user", "What is it?", [&image[..]]);
        let (_, result) =
            collect(engine.generate(asked.model("seer").temperature(0.0).max_tokens(6))).await.expect("a generation");
        seen.push((result.usage.prompt_tokens, result.token_ids));
    }
    assert_eq!(seen[0], seen[2]);
    assert!(seen[0].0 == seen[1].0 && seen[0].1 != seen[1].1, "{seen:?}");

    let sound = std::fs::read(at("tone.wav")).expect("a sound");
    for audio in [Audio::File(at("tone.wav")), Audio::Bytes(sound)] {
        let heard = engine.transcribe(audio, None, Some("en")).await.expect("a transcription");
        assert_eq!((heard.model.as_str(), heard.language.as_deref()), ("listener", Some("english")));
    }

    let said = engine.speak("Hello there.", None, None).await.expect("speech");
    assert_eq!((said.model.as_str(), &said.wav[..4], said.sample_rate_hz), ("speaker", &b"RIFF"[..], 32_000));
    // A head of 44 bytes, and two bytes a sample.
    let samples = u32::try_from((said.wav.len() - 44) / 2).expect("a short one");
    assert!(samples > 0 && (said.duration_s - f64::from(samples) / 32_000.0).abs() < 1e-3, "{}", said.duration_s);
    engine.close().await.expect("closed");
}
