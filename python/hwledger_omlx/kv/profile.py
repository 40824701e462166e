"""What calibration measured of a model, and the file that keeps it: one for each model, beside the cache.

The file is what `KvPolicy.resolve` reads for `auto`; its layout is that of `rust/core/src/quant/policy/profile.rs`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hwledger_omlx._native import fingerprint_folder
from hwledger_omlx.errors import KvProfileError, KvProfileNotFoundError
from hwledger_omlx.fork.home import home, write_json

VERSION = 1
FOLDER = "kv-profiles"
_MEMO = "fingerprints.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a format does to the model where nothing else is changed."""

    kl: float
    """Mean KL divergence of the next-token distribution from the 16-bit one, in nats; or what the formats of the same
    keys or values together say of an error as large as this one's, where that is more."""
    error: float
    """Relative error of the layer's attention output."""


Formats = Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """What was measured of one layer's keys, and of its values."""

    k: Formats
    v: Formats

    def of(self, part: str) -> Formats:
        """Of the part `k` or `v`."""
        return self.k if part == "k" else self.v


@dataclass(frozen=True, slots=True)
class Whole:
    """What a policy does to the model, all layers together."""

    policy: str
    """Its text, with every format written out."""
    kl: float
    """As `Measured.kl`, measured and nothing else."""
    kl_of_pieces: tuple[float, ...] = ()
    """The same of each piece of the text, which shows whether it is of a few tokens or of all."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The sensitivity of a model's layers."""

    model: str
    """Fingerprint of the model's files, in hexadecimal."""
    text: str
    """SHA-256 of the text that it was measured on, in hexadecimal."""
    tokens: int
    """Of the text, that were measured."""
    layers: tuple[LayerProfile | None, ...]
    """None where a layer has no running keys and values that could be held otherwise."""
    wholes: tuple[Whole, ...] = ()
    """Policies that were measured as wholes."""

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "version": VERSION,
            "model": self.model,
            "text": self.text,
            "tokens": self.tokens,
            "layers": [None if layer is None else asdict(layer) for layer in self.layers],
            "wholes": [asdict(whole) for whole in self.wholes],
        }

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what `as_json` gave.

        Raises:
            KvProfileError: it is no profile, or one of another version.
        """
        try:
            said = json.loads(text)
            version = said["version"]
            if version == VERSION:
                layers = tuple(None if layer is None else LayerProfile(**_parts(layer)) for layer in said["layers"])
                wholes = tuple(_whole(**whole) for whole in said.get("wholes", ()))
                return cls(said["model"], said["text"], said["tokens"], layers, wholes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KvProfileError(f"that is no KV profile: {error}") from error
        raise KvProfileError(
            f"the KV profile is of version {version}, and this program reads {VERSION}; measure the model again: "
            "hwledger-omlx kv calibrate MODEL --text FILE"
        )

    def write(self) -> Path:
        """Keeps it in place of an earlier one of the same model; returns the file."""
        path = path_of(self.model)
        write_json(path, self.as_json())
        return path

    def most_sensitive(self, format_name: str) -> list[tuple[int, str, Measured]]:
        """`(layer, "k" or "v", what was measured)` for a format, the most harmful first."""
        found = [
            (number, part, layer.of(part)[format_name])
            for number, layer in enumerate(self.layers)
            if layer is not None
            for part in ("k", "v")
            if format_name in layer.of(part)
        ]
        return sorted(found, key=lambda each: each[2].kl, reverse=True)


def fingerprint(folder: Path) -> str:
    """The hexadecimal fingerprint of a model's files. Files that did not change are not read twice.

    Raises:
        ModelError: the folder holds no model, or a file cannot be read.
    """
    home().mkdir(parents=True, exist_ok=True)
    return fingerprint_folder(folder, home() / _MEMO).hex()


def path_of(model: str) -> Path:
    """The file of the model with that fingerprint."""
    return home() / FOLDER / f"{model}.json"


def text_of(model: str, name: str) -> str:
    """The profile of the model with that fingerprint, as JSON.

    Args:
        model: its fingerprint.
        name: what the model is called, for the message.

    Raises:
        KvProfileNotFoundError: there is none.
        KvProfileError: it cannot be read.
    """
    path = path_of(model)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KvProfileNotFoundError(
            f"{name} has not been measured; run: hwledger-omlx kv calibrate {name} --text FILE"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KvProfileError(f"the KV profile of {name} cannot be read: {error}") from error


def _whole(policy: str, kl: float, kl_of_pieces: Sequence[float] = ()) -> Whole:
    return Whole(policy, kl, tuple(kl_of_pieces))


def _parts(layer: Any) -> dict[str, Formats]:
    return {part: {name: Measured(**measured) for name, measured in layer[part].items()} for part in ("k", "v")}
