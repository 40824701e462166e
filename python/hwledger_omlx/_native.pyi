"""Types of the Rust extension. Checked against it by stubtest."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, final

from typing_extensions import Buffer

__all__ = [
    "HEARTBEAT_VARIABLE",
    "Codec",
    "ConfigError",
    "EngineError",
    "Error",
    "ForeignFolderError",
    "ForkError",
    "HarnessError",
    "Hook",
    "KvPolicy",
    "KvPolicyError",
    "LayerMemory",
    "Layout",
    "Ledger",
    "LedgerClosedError",
    "LedgerError",
    "LedgerFormatError",
    "LedgerLockedError",
    "LedgerNotFoundError",
    "Match",
    "MemoryTables",
    "ModelError",
    "ModelShape",
    "RequestError",
    "Restored",
    "RpcConnection",
    "RpcRequest",
    "RpcTextStream",
    "Saved",
    "SeriesError",
    "Snapshot",
    "Store",
    "StoreClosedError",
    "StoreConfigError",
    "StoreError",
    "StoreFormatError",
    "StoreIOError",
    "StoreInUseError",
    "StoreNotFoundError",
    "StoreWriteError",
    "Words",
    "__version__",
    "beat_byte",
    "find_config",
    "fingerprint_folder",
    "is_kv_policy_file",
    "known_model_types",
    "kv_format_serves",
    "load_config",
    "lock_manifest",
    "log_level_changed",
    "memory_report",
    "namespace_digest",
    "parse_series",
    "series",
    "supervise",
    "wait_for_memory_sample",
]

__version__: str
HEARTBEAT_VARIABLE: str
"""The environment variable with the file descriptor of a supervised process's heartbeat."""

class Error(Exception): ...
class ForkError(Error): ...
class SeriesError(Error): ...
class ModelError(Error): ...
class RequestError(Error): ...
class EngineError(Error): ...
class HarnessError(Error): ...
class ConfigError(Error, ValueError): ...
class KvPolicyError(Error, ValueError): ...
class StoreError(Error): ...
class StoreInUseError(StoreError): ...
class ForeignFolderError(StoreError): ...
class StoreFormatError(StoreError): ...
class StoreWriteError(StoreError): ...
class StoreClosedError(StoreError): ...
class StoreConfigError(StoreError, ValueError): ...
class StoreIOError(StoreError, OSError): ...
class StoreNotFoundError(StoreIOError, FileNotFoundError): ...
class LedgerError(Error): ...
class LedgerFormatError(LedgerError): ...
class LedgerLockedError(LedgerError): ...
class LedgerClosedError(LedgerError): ...
class LedgerNotFoundError(LedgerError, FileNotFoundError): ...

@final
class Hook:
    @property
    def id(self) -> str: ...
    @property
    def patch(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shim(self) -> str: ...
    @property
    def self_test(self) -> str: ...
    @property
    def form(self) -> str | None: ...
    @property
    def rebind(self) -> list[str]: ...
    @property
    def parameters(self) -> list[str]: ...
    @property
    def feature(self) -> str: ...
    @property
    def required(self) -> bool: ...
    @property
    def releases(self) -> str | None: ...
    @property
    def protocol_objects(self) -> list[str]: ...
    @property
    def protocol_calls(self) -> list[str]: ...
    @property
    def digests(self) -> dict[str, str]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class KvPolicy:
    """How each layer's keys and values are to be held, live and at rest.

    Text such as `8`, `k8v4`, `4,0-1:16`, `rotated-3.5`, `16/lossless` or `auto:0.35`; the grammar stands in the
    documentation of the core's `quant::policy`. Equal policies have one text, and it reads as an equal policy.
    """

    @staticmethod
    def parse(text: str) -> KvPolicy:
        """The policy that the text says.

        Raises:
            KvPolicyError: it says none; the message has what is wrong, where, and what would be right.
        """

    @staticmethod
    def from_json(text: str) -> KvPolicy:
        """The policy that JSON says: its fields, as `to_json` gives them, or a string with its text.

        Raises:
            KvPolicyError: it says none.
        """

    @staticmethod
    def from_toml(text: str) -> KvPolicy:
        """The policy that a TOML document says, with the same fields.

        Raises:
            KvPolicyError: it says none.
        """

    @property
    def needs_profile(self) -> bool:
        """Whether it must be solved for, with what calibration measured."""

    def to_json(self) -> str:
        """Its fields as JSON: `live`, `rest` (each with `k` and `v`, or `auto`, and `layers`) and tokens kept plain."""

    def resolve(self, geometry_json: str, profile_json: str | None = None) -> str:
        """The formats of each cache of a model, live and at rest.

        Args:
            geometry_json: `{"model": hex or null, "layers": [{"caches": [...]}]}`, each cache with `kind` (`sequence`,
                `window`, `chunked` or `state`) and, but for a state, `k` and `v` (each `heads` and `width`), `element`
                (`bfloat16`, `float16` or `float32`), `window_tokens` of a window and `chunk_tokens` of a chunked one;
                a state may have `bytes`.
            profile_json: what `hwledger-omlx kv calibrate` measured. `auto` needs it.

        Returns:
            JSON: `policy` (text, with what `auto` stood for written out), `first_tokens`, `recent_tokens` and `layers`.
            Each layer has `caches`, each `null` or `live` and `rest`, each with `k` and `v`, each `16`, `lossless`,
            `affine:BITS:GROUP`, `rotated:BITS` or `channel:BITS:GROUP`.

        Raises:
            KvPolicyError: the model cannot take it, and the message names the layer; or `auto` lacks something.
        """

    def plan(self, geometry_json: str, tokens: int, profile_json: str | None = None) -> str:
        """The bytes of a model's caches at so many tokens. Arguments and errors as of `resolve`.

        Returns:
            JSON: `policy`, `tokens`, `live_bytes`, `rest_bytes`, `rest_is_upper_bound` (where `lossless` is among the
            formats), `plain_bytes` (live, all in 16 bit), `plain_rest_bytes`, `predicted_kl` (nats or null), `layers`,
            each with `live_bytes`, `rest_bytes`, `plain_bytes` and `plain_rest_bytes`.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def series() -> list[Hook]: ...
def parse_series(manifests: list[tuple[str, str]]) -> list[Hook]: ...
def lock_manifest(file: str, text: str, release: str, digests: dict[str, str]) -> str: ...

_TokenIds: TypeAlias = Buffer | list[int] | tuple[int, ...]
"""A buffer of uint32 with one dimension (`array.array("I")`, numpy), which is copied, or ints, which are converted."""

@final
class Store:
    """A folder of prompts with their KV. Usable from any thread; every call lets the others run.

    Closed by `close`, a `with` statement, or when Python ends. Where this process has the folder open already, `open`
    gives the same store once more, and it is closed with its last handle.
    """

    @staticmethod
    def open(
        folder: str | PathLike[str],
        *,
        quota_bytes: int,
        hot_bytes: int,
        queue_bytes: int,
        min_free_bytes: int,
        backlog_bytes: int | None = None,
        daily_write_bytes: int | None = None,
        ttl_seconds: float | None = None,
        reader_threads: int | None = None,
        segment_bytes: int | None = None,
    ) -> Store:
        """Opens the store in `folder`, and makes it where there is none.

        Raises:
            StoreInUseError: another process has it.
            ForeignFolderError: the folder holds something else, for example a cache of oMLX's. It is left alone.
            StoreFormatError: a store that this version cannot read.
            StoreConfigError: a setting cannot be.
            StoreIOError: the operating system refused.
        """

    @property
    def folder(self) -> Path: ...
    @property
    def closed(self) -> bool:
        """Whether `close` was called on this handle."""

    def set_limits(
        self,
        *,
        quota_bytes: int,
        hot_bytes: int,
        min_free_bytes: int,
        daily_write_bytes: int | None = None,
        ttl_seconds: float | None = None,
    ) -> None:
        """Puts other limits in force, for all who have the store open, and returns when what is stored fits them.

        What running requests hold may keep a smaller quota from being met until they end.

        Raises:
            StoreConfigError: the quota is smaller than the segments that the store was opened with.
            StoreClosedError: it is closed.
        """

    def lookup(self, namespace: bytes, tokens: _TokenIds, limit: int | None = None, *, label: str = "") -> Match:
        """The longest stored prefix of `tokens`, token by token. Trouble of the store is a match of nothing.

        Args:
            namespace: 32 bytes, as `namespace_digest` makes them.
            tokens: the prompt.
            limit: most tokens to match.
            label: the model's path or name. Tells "its identity changed" from "never seen".
        """

    def save(
        self,
        namespace: bytes,
        layout: Layout,
        tokens: _TokenIds,
        arrays: Sequence[Buffer],
        snapshot: Snapshot | None = None,
        *,
        first_tokens: Sequence[int] | None = None,
        label: str = "",
    ) -> Saved:
        """Saves what is missing of `tokens`. Trouble of the store is a refusal, never an exception.

        What is not `deferred` has been copied when this returns. Else the buffers are held until a thread of the store
        has copied them, and nobody may write to them or assign into an `mx.array` among them before `flush` returns.

        Args:
            namespace: 32 bytes.
            layout: what the arrays are. A namespace keeps the one of its first save.
            tokens: the prompt.
            arrays: one `[1, rows, n, width]` a part, of any format, evaluated, with a contiguous last axis. Its token 0
                is `tokens[first_tokens[i]]`, and it reaches to the end of `tokens` or further.
            snapshot: state that is valid at exactly the end of `tokens`.
            first_tokens: where the arrays begin; by default all at 0.
            label: the model's path or name.

        Raises:
            ValueError: an array does not fit the layout.
        """

    def flush(self) -> None:
        """Returns when everything accepted is on disk.

        Raises:
            StoreWriteError: something could not be written, since the last flush.
        """

    def close(self) -> None:
        """Flushes, writes the index and lets go of the folder. Safe to call twice."""

    def stats(self) -> str:
        """What it did and holds, as JSON; `hwledger_omlx.cache.CacheStats` types it."""

    def info(self) -> str:
        """Its folder, usage and namespaces, as JSON; `hwledger_omlx.cache.StoreInfo` types it."""

    def layouts(self, label: str) -> list[tuple[bytes, bytes]]:
        """Each namespace of that label that something is stored in, with the description of its layout."""

    def pin(self, namespace: bytes, tokens: _TokenIds) -> int:
        """Keeps the longest stored prefix of `tokens` from eviction. Returns its length in tokens."""

    def unpin(self, namespace: bytes, tokens: _TokenIds) -> int:
        """Takes back the `pin` of the same tokens. Returns how many were pinned."""

    def purge(self, namespace: bytes | None = None) -> str:
        """Removes one namespace, or all. Returns JSON: blocks, snapshots, bytes."""

    def compact(self) -> str:
        """Rewrites segments that are mostly dead. Returns JSON: segments, moved_bytes, freed_bytes."""

    def verify(self) -> str:
        """Reads every record and quarantines bad ones. Returns JSON: records, bytes, bad, stopped. Ctrl-C stops it."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None, /
    ) -> None: ...

@final
class Codec:
    """How keys or values are kept at rest: `affine:4:64`, `channel:4:64`, `rotated:3.5` or `lossless`.

    Args:
        name: scheme, bits and group.
        element: type of the numbers: `float16`, `bfloat16` or `float32`.
        width: numbers of one token in one head.

    Raises:
        ValueError: there is no such codec, or it does not fit the width.
    """

    def __new__(cls, name: str, element: str, width: int) -> Self: ...
    def encoded_nbytes(self, rows: int, tokens: int) -> int:
        """Bytes that so many tokens take; of `lossless` the most."""

    def encode(self, array: Buffer, into: Buffer) -> int:
        """Encodes an evaluated array `[1, rows, tokens, width]` into the front of `into`. Returns the bytes written.

        Raises:
            ValueError: the array does not fit, or there is too little room.
        """

    def decode(self, data: Buffer, into: Buffer) -> None:
        """Decodes what `encode` wrote of as many rows and tokens as `into` has, `[1, rows, tokens, width]`.

        Raises:
            ValueError: the array does not fit, or `encode` did not write that.
        """

@final
class Ledger:
    """One row a request, in an SQLite database that several processes may have open. Usable from any thread.

    Rows, answers and statistics are JSON; `hwledger_omlx.memory.ledger` types them.
    """

    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        create: bool = True,
        max_rows: int = 100_000,
        max_age_s: float | None = ...,
        queue_rows: int = 4096,
        patience_s: float = 5.0,
    ) -> Ledger:
        """Opens the database at `path`, and makes it where there is none.

        Args:
            path: of the file.
            create: False raises where there is none.
            max_rows: most rows kept; the first recorded go first.
            max_age_s: how long a row is kept after its request arrived, half a year by default; None for ever.
            queue_rows: rows that may wait to be written; more are dropped.
            patience_s: how long another process' lock is waited for.

        Raises:
            LedgerNotFoundError: there is none, and none was to be made.
            LedgerFormatError: a damaged one, one of a later version, or another program's. It is left alone.
            LedgerError: a setting cannot be, or the system refused.
        """

    def record(self, row_json: str) -> bool:
        """Hands a row to the thread that writes. Never waits; False where it had to be dropped.

        Raises:
            LedgerError: it is no row.
            LedgerClosedError: the ledger is closed.
        """

    def rows(
        self, *, limit: int, model: str | None = None, since_unix_s: float | None = None, after_id: int | None = None
    ) -> str:
        """The last `limit` rows, as a list of objects; with `after_id` the first `limit` ones after that.

        Raises:
            LedgerError: the database cannot be read.
        """

    def reconcile(self, *, model: str | None = None, since_unix_s: float | None = None) -> str:
        """What was predicted against what was measured, by model and device. Keeps what the runtime was found to take.

        Raises:
            LedgerLockedError: another process keeps it from being kept.
            LedgerError: the database cannot be read or written.
        """

    def fitted_runtime(self, model: str, device: str) -> str:
        """What the runtime takes for a model on a device, as it was kept last; `null` where that is not known.

        Raises:
            LedgerError: the database cannot be read.
        """

    def stats(self) -> str:
        """What became of the rows since it was opened."""

    def flush(self) -> None:
        """Returns when every row that was taken is written, or dropped and counted.

        Raises:
            LedgerClosedError: the ledger is closed.
        """

    def close(self) -> None:
        """Writes what was taken, and takes no more. Rows can still be read. Safe to call twice."""

@final
class Layout:
    """What the blocks of a namespace hold: an array `[1, rows, tokens, width]` a part, of `row_bytes` bytes a width.

    A part is `(rows, row_bytes)`, kept as it is, or `(rows, row_bytes, codec)`, kept encoded in RAM and on disk. A
    codec is `(scheme, element, width)`: the scheme's short name, the type of the numbers (`float16`, `bfloat16` or
    `float32`) and how many a width has, as in `("affine:4:64", "bfloat16", 128)`. What is restored is what the codec
    gives back.

    Raises:
        ValueError: a part without bytes, an unknown codec, or one that does not fit the part; it names the part.
    """

    def __new__(
        cls,
        parts: Sequence[tuple[int, int] | tuple[int, int, tuple[str, str, int] | None]],
        needs_snapshot: bool = False,
        description: bytes = b"",
    ) -> Self: ...
    @property
    def parts(self) -> list[tuple[int, int]]:
        """`(rows, row_bytes)` of each part."""

    @property
    def codecs(self) -> list[tuple[str, str, int] | None]:
        """`(scheme, element, width)` of each part that is kept encoded, `None` of the others."""

    @property
    def needs_snapshot(self) -> bool:
        """Whether a prefix can be restored only where a snapshot was taken."""

    @property
    def description(self) -> bytes:
        """The caller's own description, kept and given back as it is."""

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all parts, in the arrays."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class Snapshot:
    """State of layers that cannot be cut at a token. Holds its arrays, C-contiguous and evaluated, while it lives."""

    def __new__(cls, meta: bytes, arrays: Sequence[Buffer]) -> Self: ...
    @property
    def meta(self) -> bytes:
        """The caller's own description, given back as it is."""

    @property
    def nbytes(self) -> list[int]:
        """Bytes of each array."""

@final
class Match:
    """The longest stored prefix of some tokens, kept from eviction until it is released, as a `with` statement does."""

    @property
    def tokens(self) -> int:
        """Tokens that match, one by one from the first."""

    @property
    def restorable(self) -> int:
        """Tokens that `restore` gives: all that match, or those up to the best snapshot where the layout needs one."""

    @property
    def nbytes(self) -> int:
        """Bytes of the restorable tokens in the arrays, all parts."""

    @property
    def description(self) -> bytes:
        """The layout's description; empty where nothing matched."""

    @property
    def parts(self) -> list[tuple[int, int]]:
        """`(rows, row_bytes)` of each part; empty where nothing matched."""

    @property
    def codecs(self) -> list[tuple[str, str, int] | None]:
        """`(scheme, element, width)` of each part that is kept encoded, `None` of the others."""

    @property
    def snapshot_position(self) -> int | None:
        """Tokens of the prefix at which the best snapshot is valid."""

    @property
    def snapshot_meta(self) -> bytes | None:
        """The description that the best snapshot was saved with."""

    @property
    def snapshot_nbytes(self) -> list[int]:
        """Bytes of each array of the best snapshot."""

    @property
    def miss_reason(self) -> str | None:
        """Why nothing can be restored: `no_prefix`, `evicted`, `identity_changed`, `no_snapshot` or `disabled`."""

    def restore(
        self, arrays: Sequence[Buffer], first_part: int = 0, *, first_tokens: Sequence[int] | None = None
    ) -> Restored:
        """Copies the restorable tokens of parts `first_part..first_part + len(arrays)` straight into arrays.

        Nobody else may use the arrays meanwhile. What is behind the restored tokens may be overwritten.

        Args:
            arrays: writable `[1, rows, capacity, width]` with the last two axes contiguous, one a part.
            first_part: the part that the first array is for.
            first_tokens: the position of each array's token 0; by default all 0. Earlier tokens are left out.

        Raises:
            ValueError: an array does not fit its part, or the match was released.
        """

    def restore_snapshot(self, arrays: Sequence[Buffer]) -> bool:
        """Fills one writable C-contiguous array for each of the best snapshot's. False if it turned out bad."""

    def release(self) -> None:
        """Lets go of the prefix. What the match says of itself stays readable."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None, /
    ) -> None: ...

@final
class Restored:
    """What came of a restore."""

    @property
    def tokens(self) -> int:
        """Leading tokens that are right in every array. Fewer than restorable if a record turned out bad."""

    @property
    def bytes_hot(self) -> int:
        """Bytes that came from RAM, as they are in the arrays."""

    @property
    def bytes_cold(self) -> int:
        """Bytes that came from disk, as they are in the arrays."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class ModelShape:
    """A model as its files describe it: the caches of its layers, its sizes, its weights. Nothing is loaded."""

    @staticmethod
    def read(folder: str | PathLike[str]) -> ModelShape:
        """Reads config.json and the headers of the weights.

        Raises:
            ModelError: a file is missing or malformed; the message names it.
        """

    @staticmethod
    def of_config(text: str) -> ModelShape:
        """The same by config.json's text alone, without weights.

        Raises:
            ModelError: a setting is missing or says what cannot be; the message names it.
        """

    def to_json(self) -> str:
        """All that is known of it: `model_type`, `is_known`, `element`, `layers`, `sizes`, `weights`."""

    def geometry_json(self) -> str:
        """The engine's list of layer caches, as `KvPolicy.resolve` takes it."""

    def plan(self, policy: str, request_json: str, profile_json: str | None = None) -> str:
        """The plan of a request, as JSON: the fields of `hwledger_omlx.Plan`.

        Args:
            policy: text of a KV policy.
            request_json: `context_tokens`, `answer_tokens` or null, `concurrency`, `chunk_tokens`, `device` (`kind`,
                `commit_operations`, `commit_numbers`), `memory` and `runtime` (`bytes` and `source`, or null), and
                `search`.
            profile_json: what calibration measured. `auto` needs it.

        Raises:
            KvPolicyError: it is no policy, or the model cannot take it.
        """

    def cache_bytes(
        self,
        policy: str,
        holder: str,
        prefilled_tokens: int,
        *,
        chunk_tokens: int,
        decoded_tokens: int = 0,
        reserve_tokens: int = 0,
        profile_json: str | None = None,
    ) -> str:
        """Bytes of each layer of one request, as JSON: `[{"kv_bytes", "kv_used_bytes", "state_bytes", ...}, ...]`.

        Args:
            policy: text of a KV policy.
            holder: whose caches: `engine`, `alone` (ours, in no batch) or `mlx_lm`.
            prefilled_tokens: tokens that came in chunks.
            chunk_tokens: of each chunk but the last.
            decoded_tokens: tokens that came one by one, behind them.
            reserve_tokens: for how many our caches were told to have room.
            profile_json: what calibration measured. `auto` needs it.

        Raises:
            KvPolicyError: it is no policy, or the model cannot take it.
        """

@final
class Saved:
    """What came of a save."""

    @property
    def new_tokens(self) -> int:
        """Tokens that were not stored before and are now, or will be where `deferred`."""

    @property
    def nbytes(self) -> int:
        """Bytes of these and of the snapshot, as they are in the arrays."""

    @property
    def refused(self) -> str | None:
        """Why not all was accepted: a `Refusal` of the core in snake case."""

    @property
    def deferred(self) -> bool:
        """Whether the copy is still to be made, once the queue has room."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

def known_model_types() -> list[str]:
    """Every `model_type` of config.json whose layers are known."""

def find_config(named: str | PathLike[str] | None, variables: Sequence[tuple[str, str]]) -> Path | None:
    """The configuration file: the one that is named, by `named` or else by HWLEDGER_OMLX_CONFIG, or the first that is
    there, in the working directory or the user's folder of settings. None where there is none.
    """

def load_config(file: str | PathLike[str] | None, variables: Sequence[tuple[str, str]], flags_json: str) -> str:
    """What a file, environment variables and flags say together, as JSON: `entries` and `warnings`.

    Args:
        file: a `hwledger.toml`; None for none.
        variables: names and texts, those of others too.
        flags_json: a list of pairs: a flag of `hwledger-omlx serve`, and what was given.

    Raises:
        ConfigError: something cannot be; the message has where it was given and what would be right.
    """

def is_kv_policy_file(text: str) -> bool:
    """Whether a text that is to say a KV policy is the path of a file that has it: a TOML or JSON file."""

def log_level_changed(level: str) -> None:
    """Lets what Rust has to say through at another level, which Python's loggers were set to before."""

def kv_format_serves(held: str, wanted: str) -> bool:
    """Whether numbers that were held in one format lose nothing more that matters by being held in another.

    The formats are named as `KvPolicy.resolve` does. One that lost nothing serves all; else the scheme must be one.

    Raises:
        KvPolicyError: there is no such format.
    """

def fingerprint_folder(
    folder: str | PathLike[str],
    memo_file: str | PathLike[str] | None = None,
    *,
    adapter: str | PathLike[str] | None = None,
) -> bytes:
    """The 32-byte digest of a model folder's files, weights and all, and of an adapter's.

    Args:
        folder: the model.
        memo_file: where digests are kept, so that only files that changed since are read again.
        adapter: a folder or file of its own.

    Raises:
        ModelError: a file cannot be read, or the folder holds no model.
    """

def namespace_digest(fields: dict[str, str | bytes] | dict[str, str] | dict[str, bytes]) -> bytes:
    """The 32-byte digest of named fields, whatever their order. Text counts as its UTF-8."""

@final
class LayerMemory:
    """The live memory ledger of one loaded model: who is at work, and the latest samples. Usable from any thread."""

    def __new__(cls, model_id: str, *, decode_steps: int, samples: int | None = None, cells: int | None = None) -> Self:
        """A ledger without samples.

        Args:
            model_id: the model's name.
            decode_steps: steps of decoding between two samples, to be told in reports.
            samples: how many are kept; None for 2,048.
            cells: how many caches of all of them; None for 65,536.
        """

    @property
    def model_id(self) -> str: ...
    def set_model_id(self, model_id: str) -> None:
        """Names the model anew."""

    def set_weights_bytes(self, nbytes: int | None, why_unknown: str = "") -> None:
        """Says what the weights take; None with the reason why that is not known."""

    def set_kv_policy(self, policy: str) -> None:
        """Says at which policy new requests run."""

    def set_incomplete(self, why: str | None) -> None:
        """Says what is missing of the samples, and why; None for nothing."""

    def watch_store(self, store: Store) -> None:
        """Has samples tell of a store too, for as long as that is open."""

    def shape(
        self,
        layer: int,
        place: int,
        kind: str,
        cache_class: str,
        *,
        k_format: str = "",
        v_format: str = "",
        k_bits: float | None = None,
        v_bits: float | None = None,
        shared: bool = False,
        why_unknown: str = "",
    ) -> int:
        """The number by which cells name a cache that looks so.

        Args:
            layer: index in the model's list of caches.
            place: index in the layer's list of caches; 0 where it has one.
            kind: `sequence`, `window`, `state` or `other`.
            cache_class: name of its class.
            k_format: a format's name, or the type of the numbers; empty for a state.
            v_format: the same of the values.
            k_bits: of a number.
            v_bits: the same of the values.
            shared: its arrays are those of a batch, of which each row has an equal share.
            why_unknown: why some of its numbers are not known.
        """

    def begin(self, request_id: str, prompt_tokens: int, kv_policy: str) -> int:
        """Takes a request on, which waits for its turn. Returns its number, which is above 0."""

    def advance(self, request: int, stage: int, cached_tokens: int) -> None:
        """Says how far a request is: 0 waiting, 1 prefill, 2 decode."""

    def end(self, request: int) -> int | None:
        """Lets a request go. Returns the highest peak of MLX's memory while it was at work."""

    def record(
        self,
        phase: int,
        request: int,
        chunk: int,
        active_bytes: int | None,
        cache_bytes: int | None,
        peak_bytes: int | None,
        rows: list[int],
        cells: list[int],
    ) -> bool:
        """Takes a sample; False where it has more cells than there is room for.

        Args:
            phase: what the time up to now was spent on: 0 idle, 1 restore, 2 prefill, 3 join, 4 decode.
            request: for whom; 0 for no single request.
            chunk: of its prompt, from 1; 0 outside of prefill.
            active_bytes: of all MLX arrays.
            cache_bytes: what MLX keeps for new arrays.
            peak_bytes: most bytes of MLX arrays since the sample before.
            rows: `[request, cells, ...]`, in the order of the cells; request 0 for a row that is nobody's any more.
            cells: `[shape, allocated bytes, used bytes, tokens, ...]`, -1 for what is not known.
        """

    def failed(self, why: str) -> None:
        """Counts a sample that could not be taken."""

    @property
    def samples(self) -> int:
        """Samples ever taken; the next one has this number."""

    def event(self, number: int) -> str | None:
        """The first sample from that number on that is still there, as JSON; None where there is none yet."""

@final
class MemoryTables:
    """A memory report: its JSON, and its numbers as arrays."""

    @staticmethod
    def parse(text: str) -> MemoryTables:
        """The report that JSON says. Raises ValueError where it is none."""

    @property
    def json(self) -> str: ...
    @property
    def names(self) -> list[str]:
        """What the rows' words for kinds, classes and formats stand for."""

    @property
    def layers(self) -> Words:
        """Rows of 13 words, one for each cache of each request."""

    def history(self, model: int) -> Words:
        """Rows of 4 words and one for each layer: the past of a model, by its place in the report."""

@final
class Words(Buffer):
    """Words of 8 bytes of a report, as a read-only buffer."""

    def __len__(self) -> int: ...

def memory_report(models: Sequence[LayerMemory], around: str) -> MemoryTables:
    """A report of these models, with what `around` says: JSON, as the core's `memory::live::Surroundings` has it."""

def wait_for_memory_sample(seen: int, at_most_s: float) -> int:
    """Waits until a sample was taken, of any model, after what `seen` stands for, or the time is up.

    Returns what stands for the latest one.
    """

def supervise(program: str | PathLike[str], arguments: Sequence[str], *, restart_after_s: float) -> int:
    """Runs a program in a child, and again where its heartbeat says that it is stuck, or falls silent.

    Args:
        program: what to run.
        arguments: its own, without its name.
        restart_after_s: how long silence is borne, 15 s at least. The first beat is waited for a minute.

    Returns its exit code when it ends by itself or is told to: its own, or 128 and the number of the signal. Hands
    SIGTERM, SIGINT and SIGHUP on, and keeps them: the process is to end when this returns.

    Raises:
        EngineError: the program cannot be started.
    """

def beat_byte(kind: str) -> bytes:
    """What a supervised process writes to its supervisor's pipe: `well`, `stuck` (start me anew) or `ending`."""

@final
class RpcConnection:
    """One client of JSON-RPC: its requests, and the queue of what is sent to it. Usable from any thread."""

    def __new__(cls, input_fd: int, output_fd: int, *, message_bytes: int, queue_bytes: int) -> Self:
        """Reads from copies of one descriptor and writes to the other's.

        Args:
            input_fd: what to read.
            output_fd: what to write, on a thread of its own.
            message_bytes: longest message that is read.
            queue_bytes: while more waits to be written, nothing is read.

        Raises:
            OSError: a descriptor is not open.
        """

    def receive(self, at_most_s: float) -> list[RpcRequest] | None:
        """The next requests, for one thread at a time. What is no request has been answered.

        None of them after so long, when it was woken, or when a signal came. None when there will be none.

        Raises:
            BrokenPipeError: the other end does not read any more.
        """

    def wake(self) -> None:
        """Ends a wait in `receive`, or the next one."""

    def notify(self, method: str, params_json: str) -> None:
        """Sends a notification. Never waits."""

    def stream(self, method: str, request_id: str) -> RpcTextStream:
        """The text of one request as notifications with `request_id` and `text`."""

    def wait_for_room(self, at_most_s: float) -> bool:
        """Waits until no more than `queue_bytes` wait to be written, or for so long. Whether that is so."""

    def flush(self, at_most_s: float) -> bool:
        """Waits until all is written, or for so long. Whether that is so."""

    @property
    def waiting_bytes(self) -> int:
        """What waits to be written."""

    @property
    def broken(self) -> str | None:
        """Why nothing can be written any more; None where it can."""

    def close(self) -> None:
        """Takes nothing more to send; what waits is still written."""

@final
class RpcRequest:
    """A request that waits for its answer. Left without, it is answered as an internal error."""

    @property
    def method(self) -> str:
        """What is called."""

    @property
    def params(self) -> dict[str, object] | list[object] | None:
        """None where there are none."""

    @property
    def is_notification(self) -> bool:
        """Whether nobody waits for an answer."""

    def result(self, result_json: str) -> None:
        """Answers with a result, JSON of one line.

        Raises:
            RuntimeError: it was answered before.
        """

    def error(self, code: int, message: str, data_json: str | None = None) -> None:
        """Answers with an error; its data are JSON of one line.

        Raises:
            ValueError: the code is none of the protocol's.
            RuntimeError: it was answered before.
        """

@final
class RpcTextStream:
    """The text of one request as it comes."""

    def send(self, text: str) -> None:
        """Sends a piece; joined to the last one while that waits for room. Never waits."""
