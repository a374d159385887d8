# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The lower part of docs/interfaces.md: parameters and messages as their own files say them.

`make generate` writes it; a test holds that it is what it would write.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'interfaces.md'
MARK = '<!-- Below: made by `make generate` from config/default.yaml and cwm_interfaces/. -->\n'
FOLDERS = {'action': 'Actions', 'srv': 'Services', 'msg': 'Messages'}
GROUP, PARAMETER = 4, 6
"""Indentation in the parameter file."""


def render() -> str:
    """Return the whole page, with its lower part made anew."""
    upper, mark, _ = PAGE.read_text(encoding='utf-8').partition(MARK)
    assert mark, f'{PAGE} has lost its mark'
    return f'{upper}{MARK}\n{_parameters()}{_messages()}'


def _parameters() -> str:
    lines = ['## All parameters\n', '| Parameter | Default | Meaning |', '|---|---|---|']
    comment: list[str] = []
    group, is_told = '', False
    for line in (ROOT / 'config' / 'default.yaml').read_text(encoding='utf-8').splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        is_root = text.startswith('# root:')
        if text.startswith('#') and not is_root:
            comment = comment if not is_told else []
            is_told = False
            comment.append(text.lstrip('# '))
        elif indent == GROUP:
            group, comment = text.rstrip(':'), []
        elif indent == PARAMETER:
            name, _, value = text.lstrip('# ').partition(':')
            default = '*unset*' if is_root else f'`{value.strip()}`'
            meaning = ' '.join(comment).replace('|', '\\|')
            lines.append(f'| `{group}.{name}` | {default} | {meaning} |')
            is_told = True
    return '\n'.join(lines) + '\n'


def _messages() -> str:
    parts = []
    for folder, title in FOLDERS.items():
        parts.append(f'\n## {title}\n')
        parts.extend(
            f'\n### {path.stem}\n\n```\n{path.read_text(encoding="utf-8")}```\n'
            for path in sorted((ROOT / 'cwm_interfaces' / folder).iterdir())
        )
    return ''.join(parts)


if __name__ == '__main__':
    PAGE.write_text(render(), encoding='utf-8')
