"""Images, transcripts and speech on one pool with text: in-process, and over HTTP through `serve`."""

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import hwledger_omlx as hw
import tiny_kinds
from hwledger_omlx.serve.server import Server
from hwledger_omlx.serve.settings import ServerSettings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    tiny_kinds.vision(root / "seer")
    tiny_kinds.transcription(root / "listener")
    tiny_kinds.speech(root / "speaker")
    return root


@pytest.fixture(scope="module")
def engine(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hw.Engine]:
    with hw.Engine(folders / "seer", cache_dir=tmp_path_factory.mktemp("kinds-kv")) as opened:
        opened.load(folders / "listener")
        opened.load(folders / "speaker")
        yield opened


def asked(*colours: str) -> list[hw.Message]:
    pictures = [tiny_kinds.picture(colour) for colour in colours]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": "What is it?"}]}]


def answer(engine: hw.Engine, prompt: Any) -> hw.Generation:
    return engine.generate(prompt, max_tokens=6, temperature=0.0)


def test_images_are_seen_and_cached_as_what_they_are(engine: hw.Engine) -> None:
    red, again, blue = (answer(engine, asked(colour)) for colour in ("red", "red", "blue"))
    assert red.token_ids == again.token_ids
    assert red.token_ids != blue.token_ids
    assert red.usage.prompt_tokens == blue.usage.prompt_tokens
    assert again.usage.cached_tokens == red.usage.prompt_tokens - 1
    # Of the same tokens, but for what is before the image.
    assert blue.usage.cached_tokens < again.usage.cached_tokens / 2
    both = answer(engine, asked("red", "blue"))
    assert both.usage.prompt_tokens > red.usage.prompt_tokens
    assert len(answer(engine, [{"role": "user", "content": "Hello"}]).token_ids) == 6
    assert len(answer(engine, "Once upon a time").token_ids) == 6


def test_an_image_that_cannot_be_read_is_not_left_out(engine: hw.Engine) -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for parts in ([broken], [tiny_kinds.picture("red"), broken]):
        with pytest.raises(hw.RequestError, match="image cannot be read"):
            answer(engine, [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}])
    with pytest.raises(hw.StoreError, match="known when it is sent"):
        engine.cache.pin(asked("red"))


def test_sound_becomes_text(engine: hw.Engine, tmp_path: Path) -> None:
    (tmp_path / "tone.wav").write_bytes(tiny_kinds.wav())
    of_bytes = engine.transcribe(tiny_kinds.wav(), language="en", temperature=0.0)
    of_file = engine.transcribe(tmp_path / "tone.wav", model="listener", language="en", temperature=0.0)
    assert of_bytes.model == "listener"
    assert of_bytes.text == of_file.text
    with pytest.raises(hw.RequestError, match="no sound file"):
        engine.transcribe(tmp_path / "none.wav")
    with pytest.raises(hw.RequestError, match="audio is a file or the bytes of one"):
        engine.transcribe(3)  # type: ignore[arg-type]
    with pytest.raises(hw.EngineError, match="listener failed"):
        engine.transcribe(b"no sound at all")


def test_text_becomes_sound(engine: hw.Engine) -> None:
    said = engine.speak("Hello.", max_tokens=4)
    assert said.model == "speaker"
    assert said.sample_rate_hz == 32000
    # 2,048 samples a token of sound.
    assert said.duration_s == pytest.approx(4 * 2048 / 32000)
    with wave.open(io.BytesIO(said.wav)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getnframes()) == (1, 2, 4 * 2048)
    with pytest.raises(hw.RequestError, match="speed must be"):
        engine.speak("Hello.", speed=0)
    with pytest.raises(hw.ModelTaskError, match=r"is a speech model and cannot transcribe \(can: listener"):
        engine.transcribe(said.wav, model="speaker")


def test_one_pool_has_them_all(engine: hw.Engine, folders: Path) -> None:
    assert set(engine.models) == {"seer", "listener", "speaker"}
    engine.unload("listener")
    assert set(engine.models) == {"seer", "speaker"}
    engine.load(folders / "listener")
    assert len(answer(engine, "Once").token_ids) == 6


@pytest.fixture(scope="module")
def server(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = hw.EngineConfig(model=None, cache_dir=tmp_path_factory.mktemp("kinds-served"))
    with Server(ServerSettings(engine=config, models=[], model_dirs=[folders], port=0)) as started:
        yield started


def test_images_over_http(server: Server) -> None:
    body = {"model": "seer", "messages": asked("red"), "max_tokens": 6, "temperature": 0}
    first, again = (
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()
        for _ in range(2)
    )
    assert first["choices"][0]["message"]["content"] == again["choices"][0]["message"]["content"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1


def test_audio_over_http(server: Server) -> None:
    said = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("tone.wav", tiny_kinds.wav(), "audio/wav")},
        data={"model": "listener", "language": "en"},
        timeout=120,
    )
    assert said.status_code == 200, said.text
    assert isinstance(said.json()["text"], str)
    body = {"model": "speaker", "input": "Hello.", "max_tokens": 4, "response_format": "wav"}
    spoken = httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=120)
    assert spoken.status_code == 200, spoken.text
    with wave.open(io.BytesIO(spoken.content)) as read:
        assert read.getframerate() == 32000
    assert {"listener", "speaker"} <= set(server.session.models)


def test_health_and_metrics_have_models_of_every_kind(server: Server, folders: Path) -> None:
    server.session.load(folders / "speaker")
    speaker = server.session.loaded_of_any_kind["speaker"]
    begun = speaker.engine._begin_activity("speak")
    try:
        models = {each["id"]: each for each in httpx.get(f"{server.url}/health").json()["models"]}
        running = httpx.get(f"{server.url}/metrics").text
    finally:
        speaker.engine._end_activity(begun)
    assert models["speaker"]["kind"] == "speech"
    assert models["speaker"]["requests_running"] == 1
    assert models["speaker"]["longest_request_s"] >= 0
    assert "kv_policy" not in models["speaker"]
    assert 'hwledger_requests_running{model="speaker"} 1.0' in running
