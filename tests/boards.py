# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The parameter files of boards: config/default.yaml with what a board needs different.

`make generate` writes them; a test holds that they are what it would write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import json
from pathlib import Path
import re

CONFIG = Path(__file__).resolve().parents[1] / 'config'
Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """
    A board's file.

    Parameters
    ----------
    about
        The board and its model, for people.
    model
        Name in the table of published models; empty for the reference model.
    values
        Parameters that differ from the defaults, each with the reason.

    """

    about: str
    model: str = ''
    values: dict[str, tuple[Value, str]] = field(default_factory=dict)

    @property
    def is_vehicle(self) -> bool:
        return 'privacy.encrypt' in self.values


VEHICLE: dict[str, tuple[Value, str]] = {
    'storage.root': ('/var/lib/cwm/windows', 'on the drive that keeps its data, not in a home'),
    'thaw.drop_page_cache': (True, 'perception needs the page cache more'),
    'runtime.nice': (5, 'perception and planning go first'),
    'runtime.io_class': ('best-effort', 'recorders and maps share the drive'),
    'runtime.oom_score_adj': (300, 'ended before anything that drives'),
    'privacy.default_profile': ('guest', 'in memory, up to the quota, until a driver is known'),
    'privacy.encrypt': (True, 'who takes the store must not read it'),
    'privacy.key_dir': ('/var/lib/cwm/keys', 'outside the store; better a provider with a TPM'),
}
GPU: dict[str, tuple[Value, str]] = {
    'engine.kind': ('tensorrt', 'the GPU of the board'),
    'engine.cache_dir': ('/var/lib/cwm/engines', 'where `cwm engine build` has put the engine'),
    'engine.host_memory': ('mapped', 'GPU and processor share their memory'),
    'assistant.max_tokens': (128, 'a model of this size says more'),
}

BOARDS = {
    'cpu': Board(
        about='A workstation or a bench without a GPU, with the reference model.',
        values={
            'runtime.min_mem_available_mib': (256, 'the desktop stays alive'),
        },
    ),
    'raspberry_pi5': Board(
        about='Raspberry Pi 5 (4 cores, 4 GiB or more), with the reference model.',
        values={
            **VEHICLE,
            'storage.daily_budget_mib': (2048, 'an SD card wears out soon'),
            'storage.scrub_mib_per_s': (5, 'an SD card is slow'),
            'storage.lock_timeout_s': (5.0, 'likewise'),
            'thaw.io_threads': (1, 'of four cores'),
            'thaw.staging_mib': (32, 'of 4 GiB'),
            'engine.threads': (3, 'one core stays free'),
            'engine.watchdog': (10.0, 'a slice of a prompt takes longer here'),
            'runtime.min_mem_available_mib': (256, 'of 4 GiB'),
        },
    ),
    'jetson_orin': Board(
        about='Jetson AGX Orin or Orin NX (16 GiB or more), with Llama-3.2-3B-Instruct.',
        model='llama-3.2-3b',
        values={
            **VEHICLE,
            **GPU,
            'storage.quota_mib': (4096, 'four full windows of about 920 MiB'),
            'storage.daily_budget_mib': (20480, 'a drive of 150 TB written lasts for 19 years'),
            'thaw.staging_mib': (128, 'nine chunks of 14 MiB'),
            'engine.model': ('/opt/models/Llama-3.2-3B-Instruct', 'as published'),
            'engine.context_tokens': (16384, '1.8 GiB of float16 KV'),
            'runtime.min_mem_available_mib': (2048, 'what a thaw of a full window takes'),
        },
    ),
    'jetson_thor': Board(
        about='Jetson AGX Thor (128 GiB), with Llama-3.1-8B-Instruct.',
        model='llama-3.1-8b',
        values={
            **VEHICLE,
            **GPU,
            'storage.quota_mib': (12288, 'five full windows of about 2.1 GiB'),
            'storage.daily_budget_mib': (40960, 'a drive of 600 TB written lasts for 38 years'),
            'thaw.staging_mib': (256, 'fifteen chunks of 16 MiB'),
            'engine.model': ('/opt/models/Llama-3.1-8B-Instruct', 'as published'),
            'engine.context_tokens': (32768, '4 GiB of float16 KV'),
            'assistant.max_tokens': (256, 'a model of this size says more'),
            'runtime.min_mem_available_mib': (6144, 'what a thaw of a full window takes'),
        },
    ),
    'drive_agx': Board(
        about='DRIVE AGX Orin (32 GiB), with Llama-3.1-8B-Instruct.',
        model='llama-3.1-8b',
        values={
            **VEHICLE,
            **GPU,
            'storage.quota_mib': (6144, 'five full windows of about 1 GiB'),
            'storage.daily_budget_mib': (20480, 'the drive is shared with recorders'),
            'thaw.staging_mib': (128, 'seven chunks of 16 MiB'),
            'engine.model': ('/opt/models/Llama-3.1-8B-Instruct', 'as published'),
            'engine.context_tokens': (16384, '2 GiB of float16 KV'),
            'runtime.nice': (10, 'perception and planning go first'),
            'runtime.io_class': ('idle', 'recorders go first'),
            'runtime.min_mem_available_mib': (4096, 'what a thaw of a full window takes'),
        },
    ),
}
_LINE = re.compile(r'^(?P<indent> +)(?P<off># )?(?P<name>[a-z_0-9]+):(?P<value>.*)$')


def render(name: str) -> str:
    """Return the text of a board's file."""
    board, left = BOARDS[name], dict(BOARDS[name].values)
    _, _, body = (CONFIG / 'default.yaml').read_text(encoding='utf-8').partition('\n\n')
    lines = [
        f'# {board.about}',
        '# Made from default.yaml; where it differs, the default is told beside the reason.',
    ]
    if board.is_vehicle:
        lines.append('# For a vehicle: encrypted, and a guest until somebody says who drives.')
    if board.model:
        lines.append('# The model and its engine must be there: `cwm --config FILE engine build`.')
    lines.append('')
    group = ''
    for line in body.splitlines():
        found = _LINE.match(line)
        if found and len(found['indent']) == 4:
            group = found['name']
        key = f'{group}.{found["name"]}' if found and len(found['indent']) == 6 else ''
        value, reason = left.pop(key, ('', ''))
        if not reason:
            lines.append(line)
            continue
        default = found['value'].strip() if found and not found['off'] else 'unset'
        lines.append(f'      # Here: {reason} (default {default}).')
        lines.append(f'      {key.partition(".")[2]}: {_to_yaml(value)}')
    assert not left, left
    return '\n'.join(lines) + '\n'


def _to_yaml(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == '__main__':
    for board_name in BOARDS:
        (CONFIG / f'{board_name}.yaml').write_text(render(board_name), encoding='utf-8')
