# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Settings: one frozen class per room, checked at construction, read from ROS parameter YAML.

The same file serves the node and the command line (`cwm --config FILE`)::

    /**:
      ros__parameters:
        storage:
          quota_mib: 500
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
import os
from pathlib import Path
from typing import get_type_hints, TYPE_CHECKING, TypeVar

import yaml

from cwm_ros.config_checks import check_choice, check_range
from cwm_ros.config_privacy import PrivacySettings
from cwm_ros.config_vehicle import (
    IgnitionSettings,
    PowerSettings,
    RuntimeSettings,
    ShutdownSettings,
)
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20
CHUNK_TOKENS = (128, 256, 512)
CODECS = ('raw', 'fp16', 'int8', 'int4')
LOSSLESS_CODEC = 'raw'
COMPRESSIONS = ('none', 'lz4')
STRATEGIES = ('auto', 'load', 'recompute')
ENGINES = ('onnxruntime', 'tensorrt')
PRECISIONS = ('auto', 'fp32', 'fp16', 'int8', 'int4')
GPU_PRECISIONS = ('auto', 'fp32', 'fp16', 'int8')
HOST_MEMORY = ('auto', 'copied', 'mapped')
MAX_GPU_SLICE = 2048
DEFAULT_SYSTEM_PROMPT = (
    'You are the assistant of this vehicle. You remember what people tell you. '
    'You answer in short sentences.'
)
FORMULATIONS = ('auto', 'scatter', 'delta')
LOADER_SURPRISES = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises beside its own errors: for "!!int x", 2026-13-45, thousands of brackets."""


def default_store_root() -> Path:
    """Return ``$CWM_STORE``, else ``cwm`` in the user's data folder."""
    if 'CWM_STORE' in os.environ:
        return Path(os.environ['CWM_STORE'])
    data = os.environ.get('XDG_DATA_HOME') or Path.home() / '.local' / 'share'
    return Path(data) / 'cwm'


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """
    Where windows live and how much room they may take.

    Parameters
    ----------
    root
        Folder of the store.
    quota_mib
        Most bytes of chunks, manifests and logs, each chunk counted once [MiB].
    free_floor_mib
        Room that is left free on the device whatever the quota says [MiB].
    keep_recent
        How many windows, of those used last, keep all chunks while any other has one to give.
    remove_cold_windows
        Whether whole windows, with their turns, may go when removing chunks is not enough.
    daily_budget_mib
        When so much was written in a day, only turns and final saves still are [MiB]; 0 for no
        limit.
    scrub_mib_per_s
        How fast chunks are read to check them [MiB/s].
    quarantine_mib
        Most bytes of damaged files that are kept aside, beside the quota [MiB].
    lock_timeout_s
        How long to wait for another writer [s].
    write_behind
        Whether chunks are written between turns as they become full.

    """

    root: Path = field(default_factory=default_store_root)
    quota_mib: int = 500
    free_floor_mib: int = 64
    keep_recent: int = 2
    remove_cold_windows: bool = False
    daily_budget_mib: int = 0
    scrub_mib_per_s: int = 20
    quarantine_mib: int = 16
    lock_timeout_s: float = 2.0
    write_behind: bool = True

    def __post_init__(self) -> None:
        check_range('storage.quota_mib', self.quota_mib, 1, 1 << 30)
        check_range('storage.free_floor_mib', self.free_floor_mib, 0, 1 << 30)
        check_range('storage.keep_recent', self.keep_recent, 0, 1 << 20)
        check_range('storage.daily_budget_mib', self.daily_budget_mib, 0, 1 << 30)
        check_range('storage.scrub_mib_per_s', self.scrub_mib_per_s, 1, 1 << 20)
        check_range('storage.quarantine_mib', self.quarantine_mib, 0, 1 << 30)
        check_range('storage.lock_timeout_s', self.lock_timeout_s, 0, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSettings:
    """
    How KV becomes bytes.

    Parameters
    ----------
    kind
        'int8' (default), 'int4' (little more than half of it, not as exact), 'fp16', or 'raw'
        (float32).
    chunk_tokens
        Tokens in a chunk; fixed for a store.
    compression
        'lz4' (a block is kept compressed only where it saves at least 3 %) or 'none'.

    """

    kind: str = 'int8'
    chunk_tokens: int = 256
    compression: str = 'lz4'

    def __post_init__(self) -> None:
        check_choice('codec.kind', self.kind, CODECS)
        check_choice('codec.chunk_tokens', self.chunk_tokens, CHUNK_TOKENS)
        check_choice('codec.compression', self.compression, COMPRESSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawSettings:
    """
    What comes back first, and with how many hands.

    Parameters
    ----------
    first_tokens, last_tokens
        A window is usable when the chunks of its first and last so many tokens are resident.
    relevant_chunks
        How many absent chunks a waiting prompt pulls ahead of the others.
    io_threads
        Threads that decode, beside as many that read ahead; 0 means half the cores, at least one.
    staging_mib
        Most memory for chunks on their way, at least one chunk [MiB].
    drop_page_cache
        Whether the system forgets what was read, so that it keeps what other processes read.
    strategy
        'auto' loads or computes, whichever is sooner here; 'load' computes only what cannot be
        loaded; 'recompute' loads nothing.
    proof_tokens
        How many tokens of each chunk are compared with the model's weights and with what the
        window remembers; 0 for no proof.
    abstention_retries
        How often an answer that is an abstention is given up for more chunks and tried again.

    """

    first_tokens: int = 256
    last_tokens: int = 512
    relevant_chunks: int = 4
    io_threads: int = 0
    staging_mib: int = 64
    drop_page_cache: bool = False
    strategy: str = 'auto'
    proof_tokens: int = 4
    abstention_retries: int = 2

    def __post_init__(self) -> None:
        check_range('thaw.first_tokens', self.first_tokens, 1, 1 << 20)
        check_range('thaw.last_tokens', self.last_tokens, 1, 1 << 20)
        check_range('thaw.relevant_chunks', self.relevant_chunks, 0, 1 << 10)
        check_range('thaw.io_threads', self.io_threads, 0, 256)
        check_range('thaw.staging_mib', self.staging_mib, 1, 1 << 16)
        check_choice('thaw.strategy', self.strategy, STRATEGIES)
        check_range('thaw.proof_tokens', self.proof_tokens, 0, 16)
        check_range('thaw.abstention_retries', self.abstention_retries, 0, 64)

    @property
    def num_threads(self) -> int:
        """Return the number of threads that ``io_threads`` asks for."""
        return self.io_threads or max(1, (os.cpu_count() or 2) // 2)

    @property
    def max_in_flight(self) -> int:
        """Return how many chunks are on their way at once: more are read than decoded."""
        return 2 * self.num_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """
    Which model runs, where and how.

    Parameters
    ----------
    kind
        'onnxruntime' (any processor) or 'tensorrt' (an NVIDIA GPU, with an engine that
        ``cwm engine build`` has built).
    model
        Checkpoint folder in the published Hugging Face layout, or 'reference'.
    threads
        Threads of one inference; 0 means all cores.
    formulation
        Graph formulation: 'scatter', 'delta', or 'auto' for the best the runtime has.
    prefill_slice
        Tokens computed at once when a prompt is long.
    context_tokens
        Longest session; 0 means the trained length, and more than that is refused.
    watchdog
        After how long a step of the engine hangs, so that a node ends itself [s]; 0 for never.
    cache_dir
        Where graphs and engines built from checkpoints are kept; empty means the user's cache
        folder.
    precision
        Of weights: 'fp32', 'fp16', 'int8', 'int4' ('onnxruntime' only), or 'auto', which is fp32
        of 'onnxruntime' and fp16 of 'tensorrt'. 'onnxruntime' computes in float32 in any case
        and keeps its cache so; 'int8' of 'tensorrt' needs TensorRT 10.
    cpu_fallback
        Whether 'onnxruntime' takes over, aloud, where 'tensorrt' cannot run.
    host_memory
        How chunks reach the GPU: 'copied', 'mapped' (read where they lie, best on a GPU that
        shares the processor's memory) or 'auto'.
    stream_priority
        Of inference on the GPU beside other work there; lower goes first, imports have 0.

    """

    kind: str = 'onnxruntime'
    model: str = 'reference'
    threads: int = 0
    formulation: str = 'auto'
    prefill_slice: int = 256
    context_tokens: int = 0
    cache_dir: str = ''
    watchdog: float = 5.0
    precision: str = 'auto'
    cpu_fallback: bool = False
    host_memory: str = 'auto'
    stream_priority: int = -1

    def __post_init__(self) -> None:
        check_choice('engine.kind', self.kind, ENGINES)
        check_choice('engine.precision', self.precision, PRECISIONS)
        check_choice('engine.host_memory', self.host_memory, HOST_MEMORY)
        check_range('engine.stream_priority', self.stream_priority, -5, 0)
        if self.kind == 'tensorrt':
            check_choice('engine.precision of tensorrt', self.precision, GPU_PRECISIONS)
            if self.cpu_fallback and self.precision == 'int8':
                raise ConfigError(
                    'engine.cpu_fallback goes with precision fp16 or fp32, not int8',
                    hint='int8 weights of the two runtimes differ, and so would their windows',
                )
            check_range('engine.prefill_slice', self.prefill_slice, 1, MAX_GPU_SLICE)
        check_choice('engine.formulation', self.formulation, FORMULATIONS)
        check_range('engine.threads', self.threads, 0, 1024)
        check_range('engine.prefill_slice', self.prefill_slice, 1, 1 << 14)
        check_range('engine.context_tokens', self.context_tokens, 0, 1 << 20)
        check_range('engine.watchdog', self.watchdog, 0, 3600)

    @property
    def gpu_precision(self) -> str:
        """Return what ``precision`` means to 'tensorrt'."""
        return 'fp16' if self.precision == 'auto' else self.precision

    @property
    def weights(self) -> str:
        """Return the kind of weights, as `cwm_ros.model.Checkpoint` takes it."""
        if self.kind == 'tensorrt':
            return 'int8-columns' if self.precision == 'int8' else self.gpu_precision
        return 'fp32' if self.precision == 'auto' else self.precision

    @property
    def cache_path(self) -> Path:
        """Return the folder that ``cache_dir`` names."""
        if self.cache_dir:
            return Path(self.cache_dir)
        cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
        return Path(cache) / 'cwm'


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantSettings:
    """
    How the assistant speaks.

    Parameters
    ----------
    system_prompt_file
        UTF-8 text that begins every new window; empty means `DEFAULT_SYSTEM_PROMPT`.
    max_tokens
        Longest answer [tokens].
    abstentions
        How an answer begins that says that the model does not know, beside what its card says;
        several phrases are separated by '|'.
    window
        Which window a node opens or begins.
    auto_thaw
        Whether a node thaws it when it is activated; otherwise the ignition or a goal does.
    carry_over
        Most of the context that recent turns take when it was full and a new segment begins,
        as a part of it.

    """

    system_prompt_file: str = ''
    max_tokens: int = 64
    abstentions: str = ''
    window: str = 'assistant'
    auto_thaw: bool = False
    carry_over: float = 0.5

    def __post_init__(self) -> None:
        check_range('assistant.max_tokens', self.max_tokens, 1, 1 << 16)
        check_range('assistant.carry_over', self.carry_over, 0, 0.9)

    @property
    def abstention_phrases(self) -> tuple[str, ...]:
        """Return the phrases of ``abstentions``."""
        return tuple(part.strip() for part in self.abstentions.split('|') if part.strip())

    def read_system_prompt(self) -> str:
        """Return what a new window begins with."""
        if not self.system_prompt_file:
            return DEFAULT_SYSTEM_PROMPT
        try:
            return Path(self.system_prompt_file).read_text(encoding='utf-8').strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f'assistant.system_prompt_file {self.system_prompt_file}: cannot be read: {exc}',
                hint='name a UTF-8 text file',
            ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, nested as in the YAML."""

    storage: StorageSettings = field(default_factory=StorageSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    thaw: ThawSettings = field(default_factory=ThawSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    assistant: AssistantSettings = field(default_factory=AssistantSettings)
    power: PowerSettings = field(default_factory=PowerSettings)
    ignition: IgnitionSettings = field(default_factory=IgnitionSettings)
    shutdown: ShutdownSettings = field(default_factory=ShutdownSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)


Group = TypeVar('Group')
KINDS = {bool: 'a truth value, true or false', int: 'a whole number', float: 'a number'}
"""What a person calls the type of a value; all others are texts."""


def load_settings(path: Path) -> Settings:
    """
    Read settings from a ROS parameter file.

    Raises
    ------
    ConfigError
        The file is missing or not YAML, a parameter is unknown, or a value is not allowed.

    """
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError, *LOADER_SURPRISES) as exc:
        raise ConfigError(
            f'{path}: cannot be read: {exc}', hint='see config/default.yaml'
        ) from exc
    try:
        (node,) = document.values()
        parameters = node['ros__parameters']
    except (AttributeError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(
            f'{path}: is not a ROS parameter file of one node',
            hint="begin with '/**:' and 'ros__parameters:', see config/default.yaml",
        ) from exc
    return build_settings(path, parameters)


def build_settings(source: Path | str, parameters: object) -> Settings:
    """
    Build settings from nested groups of plain values.

    Parameters
    ----------
    source
        Where they come from; errors begin with it.
    parameters
        A mapping of group to a mapping of name to value; what is left out keeps its default.

    Raises
    ------
    ConfigError
        A parameter is unknown, or a value is not allowed.

    """
    groups = get_type_hints(Settings)
    built = {}
    for name, values in _as_mapping(source, 'ros__parameters', parameters).items():
        if name not in groups:
            raise ConfigError(
                f'{source}: parameter group {name!r} is unknown',
                hint=f'known are {", ".join(sorted(groups))}; names stand below their group, '
                'not behind a dot',
            )
        built[name] = _build_group(source, name, groups[name], values)
    return Settings(**built)


def _as_mapping(path: Path | str, name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f'{path}: {name} is not a mapping of names to values')
    return value


def _build_group(path: Path | str, name: str, kind: type[Group], values: object) -> Group:
    types = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    arguments: dict[str, object] = {}
    for key, value in _as_mapping(path, name, values).items():
        if key not in known:
            raise ConfigError(
                f'{path}: parameter {name}.{key} is unknown',
                hint='known are ' + ', '.join(sorted(known)),
            )
        arguments[key] = _convert(path, f'{name}.{key}', value, types[key])
    try:
        return kind(**arguments)
    except ConfigError as exc:
        raise ConfigError(f'{path}: {exc.message}', hint=exc.hint) from exc


def _convert(path: Path | str, name: str, value: object, kind: type) -> object:
    if kind is Path and isinstance(value, str):
        return _to_path(path, name, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f'{path}: {name} is {value!r}', hint=f'use {KINDS.get(kind, "text")}')
    return value


def _to_path(path: Path | str, name: str, value: str) -> Path:
    if not value or '\0' in value:
        raise ConfigError(f'{path}: {name} is {value!r}', hint='name a folder, or leave it out')
    try:
        return Path(value).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f'{path}: {name} is {value!r}: {exc}', hint='use a full path') from exc
