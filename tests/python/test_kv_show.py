"""The dial drawn: in 80 columns, as SVG, and the numbers behind it."""

import io
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from hwledger_omlx.kv.dial_svg import dial_svg
from hwledger_omlx.kv.dial_view import DialView, view
from hwledger_omlx.kv.profile import LayerProfile, Measured, Profile
from hwledger_omlx.kv.show import DialPicture, profile_table, short_name

SEQUENCE = {"kind": "sequence", "k": {"heads": 8, "width": 128}, "v": {"heads": 8, "width": 128}, "element": "bfloat16"}
WINDOW = {**SEQUENCE, "kind": "window", "window_tokens": 1024}
STATE = {"kind": "state"}
FOUR = ("channel:4:64", "affine:4:64")


def resolved(*layers: tuple[str, str] | None, first: int = 0, recent: int = 0) -> str:
    def cache(formats: tuple[str, str]) -> dict[str, Any]:
        named = {"k": formats[0], "v": formats[1]}
        return {"live": named, "rest": named}

    said = [{"caches": [None if formats is None else cache(formats)]} for formats in layers]
    return json.dumps({"policy": "some <policy>", "first_tokens": first, "recent_tokens": recent, "layers": said})


def geometry(*caches: dict[str, Any]) -> str:
    return json.dumps({"layers": [{"caches": [cache]} for cache in caches]})


def paths(count: int) -> list[list[tuple[int, ...]]]:
    return [[(layer,)] for layer in range(count)]


def profile(layers: int, kl: float = 0.001) -> Profile:
    measured = {f"affine:{bits}:64": Measured(kl / bits, 0.01) for bits in (8, 6, 4, 3, 2)}
    keys = {**measured, "channel:4:64": Measured(kl / 8, 0.005)}
    return Profile("ab", "cd", 100, tuple(LayerProfile(keys, measured) for _ in range(layers)))


def printed(what: Any, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(what)
    return out.getvalue()


def dial(layers: int = 3) -> DialView:
    formats = [("affine:8:64", "affine:8:64"), FOUR, ("rotated:3.5", "affine:4:32")]
    chosen = [formats[layer % 3] for layer in range(layers)]
    return view("model", resolved(*chosen), geometry(*[SEQUENCE] * layers), paths(layers), profile(layers), 4096)


def test_bits_and_bytes_are_those_of_the_formats() -> None:
    found = dial()
    assert [(layer.k.bits, layer.v.bits) for layer in found.layers if layer.k and layer.v] == [
        (8.5, 8.5),
        (4.5, 4.5),
        (3.625, 5.0),
    ]
    numbers = 8 * 128 * 4096
    assert [layer.nbytes for layer in found.layers] == [
        int(numbers * bits / 8) for bits in (2 * 8.5, 2 * 4.5, 3.625 + 5.0)
    ]
    assert found.plain_nbytes == 3 * 2 * 2 * numbers
    assert found.share == pytest.approx((17 + 9 + 8.625) / 96)


def test_plain_tokens_windows_and_states_are_counted_as_they_are() -> None:
    formats = [FOUR, ("16", "16"), None]
    found = view(
        "model", resolved(*formats, first=4, recent=128), geometry(SEQUENCE, WINDOW, STATE), paths(3), None, 4100
    )
    sequence, window, state = found.layers
    assert state.parts == ()
    assert state.nbytes == 0
    assert window.nbytes == 2 * 2 * 8 * 128 * 1024
    assert sequence.k is not None
    assert sequence.v is not None
    # 3,968 tokens are between the first and the recent ones: 62 runs of 64.
    assert sequence.k.nbytes == 8 * 128 * (3968 * 4.5 / 8 + 132 * 2)
    assert sequence.v.nbytes == sequence.k.nbytes
    assert window.kl == 0
    assert sequence.kl is None
    assert found.predicted_kl is None


def test_what_was_measured_adds_up() -> None:
    found = dial(2)
    assert found.layers[0].kl == pytest.approx(2 * 0.001 / 8)
    assert found.layers[1].kl == pytest.approx(0.001 / 8 + 0.001 / 4)
    assert found.predicted_kl == pytest.approx(0.000625)
    assert found.layers[1].error == 0.01
    # rotated:3.5 was not measured.
    assert dial(3).predicted_kl is None


@pytest.mark.parametrize("layers", [3, 120])
def test_a_dial_fits_80_columns(layers: int) -> None:
    text = printed(DialPicture(dial(layers)))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "affine 4/32" in text
    assert "channel 4" in text
    assert text.count("\n") >= layers + 3
    row = next(line for line in text.splitlines() if line.lstrip().startswith("0 "))
    assert row.split()[:4] == ["0", "affine", "8", "8.50"]


def test_a_profile_fits_80_columns_and_its_bars_are_to_scale() -> None:
    parts = [Measured(0.002, 0.1), Measured(0.001, 0.1), Measured(0.0, 0.0), Measured(0.002, 0.1)]
    layers = tuple(LayerProfile({"affine:2:64": k}, {"affine:2:64": v}) for k, v in (parts[:2], parts[2:]))
    text = printed(profile_table(Profile("ab", "cd", 100, (*layers, None))))
    bars = [line.count("█") for line in text.splitlines()[2:]]
    assert bars == [16, 8, 0, 16]
    wide = printed(profile_table(profile(40)))
    assert max(len(line) for line in wide.splitlines()) <= 80
    assert "…" not in wide
    assert "affine 8" in wide
    assert "channel" not in wide


def test_the_picture_is_svg_with_a_bar_for_each_part() -> None:
    found = view("<m>", resolved(FOUR, ("16", "affine:8:64"), None), geometry(SEQUENCE, SEQUENCE, STATE), paths(3))
    root = ElementTree.fromstring(dial_svg(found))  # noqa: S314  we wrote it
    name = "{http://www.w3.org/2000/svg}"
    bars = [each for each in root.iter(f"{name}rect") if each.find(f"{name}title") is not None]
    assert [float(bar.attrib["height"]) for bar in bars] == [88 * bits / 16 for bits in (4.5, 4.5, 16, 8.5)]
    titles = [title.text or "" for title in root.iter(f"{name}title")]
    assert titles[0].startswith("<m> at some <policy>: ")
    assert "layer 1 V: affine:8:64, 8.50 bits" in titles[-1]
    picture = DialPicture(found)
    assert picture._repr_svg_() in picture._repr_html_()


def test_names_are_short() -> None:
    assert [short_name(name) for name in ("16", "affine:4:64", "affine:4:32", "rotated:3.5", "lossless")] == [
        "16 bit",
        "affine 4",
        "affine 4/32",
        "rotated 3.5",
        "lossless",
    ]
