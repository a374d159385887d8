# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a model needs of a board, and how its windows come back there: a table of estimates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cwm_ros.config import CODECS
from cwm_ros.errors import ModelError
from cwm_ros.model import find_model, size_model
from cwm_ros.model.families import read_spec
from cwm_ros.model.table import published_names, published_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cwm_ros.bench.board import Board
    from cwm_ros.config import Settings
    from cwm_ros.model import Sizing

MIB = 1 << 20
GIB = 1 << 30
DEFAULT_TOKENS = 16384
LOG_BYTES = MIB
"""Room for manifest and turn log."""
KV_BESIDE = {'fp32': 'fp32', 'fp16': 'fp16', 'int8': 'fp32', 'int4': 'fp32'}
"""What an engine keeps its cache in, by its weights: float16 on a GPU, else float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """
    A model on a board.

    Parameters
    ----------
    name, refusal
        The model; why it cannot run, else empty, and then the rest is 0.
    parameters, max_tokens, reach
        Weights, trained length, and how many tokens back a token sees (0 is all).
    weights_fp32_bytes, weights_fp16_bytes, weights_int8_bytes, weights_int4_bytes
        By ``engine.precision`` of the CPU engine; fp16 is also what most are published in.
    kv_bytes_per_token
        By codec.
    tokens_that_fit
        Longest session beside the weights, at most the trained length, by weights: 'fp32', 'int8'
        and 'int4' with a cache in float32, as the CPU engine has; 'fp16' with one in float16, as
        on a GPU (the CPU engine widens such weights: take 'fp32').
    window_tokens, window_bytes
        A window of at most the tokens asked for, by codec; LZ4 not counted.
    usable_s, thaw_s, recompute_s
        Estimates for that window in the configured codec.
    quota_bytes
        Room for that window on the drive.

    """

    name: str
    refusal: str = ''
    parameters: int = 0
    max_tokens: int = 0
    reach: int = 0
    weights_fp32_bytes: int = 0
    weights_fp16_bytes: int = 0
    weights_int8_bytes: int = 0
    weights_int4_bytes: int = 0
    kv_bytes_per_token: dict[str, int] = field(default_factory=dict)
    tokens_that_fit: dict[str, int] = field(default_factory=dict)
    window_tokens: int = 0
    window_bytes: dict[str, int] = field(default_factory=dict)
    usable_s: float = 0.0
    thaw_s: float = 0.0
    recompute_s: float = 0.0
    quota_bytes: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the report by name."""
        return asdict(self)


def report_models(
    names: Sequence[str], board: Board, settings: Settings, tokens: int
) -> list[ModelReport]:
    """
    Return a report for each model.

    Parameters
    ----------
    names
        Table entries, folders or 'reference'; 'all' is the whole table.
    board
        Where they would run.
    settings
        Codec, and what makes a window usable.
    tokens
        Length of the window; shorter where the model is.

    Raises
    ------
    ModelError
        A single name is neither a folder nor in the table, or the model cannot run. Of several,
        one that cannot run is reported with the reason.

    """
    expanded: list[str] = []
    for name in names:
        expanded += published_names() if name == 'all' else [name]
    if len(expanded) == 1:
        return [_report(expanded[0], board, settings, tokens)]
    return [_report_or_refusal(name, board, settings, tokens) for name in expanded]


def _report_or_refusal(name: str, board: Board, settings: Settings, tokens: int) -> ModelReport:
    try:
        return _report(name, board, settings, tokens)
    except ModelError as exc:
        refusal = exc.hint or exc.message
        return ModelReport(name=name, refusal=refusal)


def _sizing(name: str) -> Sizing:
    if name in published_names() and not Path(name).is_dir():
        return size_model(published_spec(name))
    if name == 'reference' or Path(name).expanduser().is_dir():
        return size_model(read_spec(find_model(name)))
    return size_model(published_spec(name))


def _report(name: str, board: Board, settings: Settings, tokens: int) -> ModelReport:
    sizing = _sizing(name)
    window = min(tokens, sizing.max_tokens)
    usable = min(window, settings.thaw.first_tokens + settings.thaw.last_tokens)
    codec = settings.codec.kind

    def read_s(num_tokens: int) -> float:
        decoded = sizing.kv_bytes(num_tokens, 'raw')
        return board.read_s(sizing.kv_bytes(num_tokens, codec), decoded)

    return ModelReport(
        name=name,
        parameters=sizing.num_parameters,
        max_tokens=sizing.max_tokens,
        reach=sizing.reach,
        weights_fp32_bytes=sizing.weight_bytes('fp32'),
        weights_fp16_bytes=sizing.weight_bytes('fp16'),
        weights_int8_bytes=sizing.weight_bytes('int8'),
        weights_int4_bytes=sizing.weight_bytes('int4'),
        kv_bytes_per_token={kind: sizing.kv_bytes(1, kind) for kind in CODECS},
        tokens_that_fit={
            weights: sizing.tokens_that_fit(board.memory_bytes, weights=weights, kv=kv)
            for weights, kv in KV_BESIDE.items()
        },
        window_tokens=window,
        window_bytes={kind: sizing.kv_bytes(window, kind) for kind in CODECS},
        usable_s=read_s(usable),
        thaw_s=read_s(window),
        recompute_s=board.compute_s(sizing.prefill_flops(window)),
        quota_bytes=sizing.kv_bytes(window, codec) + LOG_BYTES,
    )


NEEDS = (
    *('model', 'weights fp32', 'fp16', 'int8', 'int4', 'KV/token fp16'),
    *('fits fp32', 'fp16', 'int8', 'int4'),
)
WINDOWS = ('model', 'window', 'fp16', 'int8', 'int4', 'usable', 'thaw', 'recompute', 'quota')


def show_reports(reports: Sequence[ModelReport], settings: Settings) -> str:
    """Return what models need, what their windows do, and which are too large for the quota."""
    able = [report for report in reports if not report.refusal]
    needs = [
        [report.name, f'refused: {report.refusal}'] if report.refusal else _needs(report)
        for report in reports
    ]
    tables = [_table(NEEDS, needs)]
    if able:
        tables.append(_table(WINDOWS, map(_window, able)))
    quota = settings.storage.quota_mib
    too_large = [report.name for report in able if report.quota_bytes > quota * MIB]
    if too_large:
        tables.append(
            f'the window does not fit storage.quota_mib={quota}: ' + ', '.join(too_large)
        )
    return '\n\n'.join(tables)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ['| ' + ' | '.join(cells) + ' |' for cells in (heads, *rows)]
    return '\n'.join([lines[0], '|' + '---|' * len(heads), *lines[1:]])


def _needs(report: ModelReport) -> list[str]:
    weights = (
        report.weights_fp32_bytes,
        report.weights_fp16_bytes,
        report.weights_int8_bytes,
        report.weights_int4_bytes,
    )
    return [
        report.name,
        *map(_size, weights),
        f'{report.kv_bytes_per_token["fp16"] / 1024:.0f} KiB',
        *(f'{tokens}' for tokens in report.tokens_that_fit.values()),
    ]


def _window(report: ModelReport) -> list[str]:
    return [
        report.name,
        f'{report.window_tokens}',
        *(f'{report.window_bytes[codec] / MIB:.0f} MiB' for codec in ('fp16', 'int8', 'int4')),
        f'{report.usable_s:.2f} s',
        f'{report.thaw_s:.2f} s',
        f'{report.recompute_s:.1f} s',
        f'{-(-report.quota_bytes // MIB)} MiB',
    ]


def _size(num_bytes: int) -> str:
    large = num_bytes >= GIB // 10
    return f'{num_bytes / GIB:.1f} GiB' if large else f'{num_bytes / MIB:.0f} MiB'
