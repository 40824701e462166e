"""The command line: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "hwledger_omlx.cli")


def run(*arguments: object, text: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=text,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_demo_answers_right_and_restores_after_a_restart(tmp_path: Path) -> None:
    ended = run("demo", "--json", HOME=str(tmp_path), HWLEDGER_OMLX_HOME="")
    assert (ended.returncode, ended.stderr) == (0, "")
    turns = json.loads(ended.stdout)["turns"]
    assert all(turn["correct"] for turn in turns)
    assert turns[0]["prompt_tokens"] > 2000
    assert turns[0]["cached_tokens"] == 0
    for before, turn in pairwise(turns):
        # Whole blocks of 256 tokens of the last prompt; none of them may be missed for being stored late.
        assert turn["cached_tokens"] >= before["prompt_tokens"] // 256 * 256
    assert {turn["after_restart"] for turn in turns} == {False, True}
    assert all(turn["ttft_s"] > 0 for turn in turns)
    assert not {".omlx", ".fmlx"} & {path.name for path in tmp_path.iterdir()}


def test_generate_streams_text_and_gives_json(tiny_model: Path) -> None:
    options = ("--model", tiny_model, "--max-tokens", 8, "--no-cache")
    plain = run("generate", "hello", *options)
    assert (plain.returncode, plain.stderr) == (0, "")
    result = json.loads(run("generate", "-", *options, "--json", text="hello").stdout)
    assert plain.stdout == result["text"] + "\n"
    assert 0 < result["usage"]["completion_tokens"] <= 8
    assert (result["usage"]["prompt_tokens"], result["usage"]["cached_tokens"]) == (5, 0)
    chat = json.loads(run("generate", "hello", *options, "--system", "be brief", "--json").stdout)
    assert chat["usage"]["prompt_tokens"] > 5


def test_chat_reads_lines_and_keeps_the_conversation(tiny_model: Path) -> None:
    talk = "hello\n\n/what\nagain\n/clear\nhello\n/exit\nnever read\n"
    ended = run("chat", "--model", tiny_model, "--max-tokens", 4, "--no-cache", text=talk)
    assert ended.returncode == 0
    counted = [int(line.split()[0]) for line in ended.stderr.splitlines() if "prompt tokens" in line]
    first, second, afresh = counted
    assert first == afresh < second
    assert "/clear starts over" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "x", "--model", "/no/such/folder"), "no model at /no/such/folder: there is no such folder"),
        (("generate", "x", "--model", "."), "has no config.json"),
        (("generate", "", "--model", "TINY"), "the prompt is empty"),
        (("generate", "x", "--model", "TINY", "-n", "0"), "max_tokens must be at least 1, not 0"),
        (("generate", "x " * 4100, "--model", "TINY"), "tokens and tiny takes 4096"),
        (("generate", "x", "--model", "TINY", "--fork", "/no/such/fork"), "/no/such/fork"),
        (("patches", "verify", "--fork", "/no/such/fork"), "/no/such/fork"),
        (("bench", "engine", "--model", "/no/such/folder"), "no model at /no/such/folder"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(*(tiny_model if argument == "TINY" else argument for argument in arguments))
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("hwledger-omlx: ")
    assert said in line


def test_usage_errors_and_help() -> None:
    assert run("generate").returncode == 2
    assert run("generate", "x", "--temprature", "1").returncode == 2
    assert "demo" in run("--help").stdout
    assert run("--version").stdout.startswith("hwledger-omlx ")


def test_a_reader_that_leaves_ends_it_quietly(tiny_model: Path) -> None:
    command = [*COMMAND, "generate", "hello", "--model", str(tiny_model), "-n", "3000", "--no-cache"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=120) != 0
        assert process.stderr.read() == ""
