# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What was found out about each dialogue, kept in a file, so that a run can be ended and taken up.

The file has a line of JSON for what was asked for in all of them, then one for each dialogue,
length and codec, written as soon as it is measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from typing import TYPE_CHECKING

from cwm_ros.bench.quality_exam import Asked, Said
from cwm_ros.bench.recall import Outcome
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Of what something was found out.

    Parameters
    ----------
    dialogue
        Its number.
    context
        Length of the window [tokens].
    codec
        What its KV passed through.
    is_brief
        Whether fixed orders and other counts of chunks were left out.

    """

    dialogue: int
    context: int
    codec: str
    is_brief: bool


Cases = dict[str, tuple[list[Asked], list[Said]]]
"""What was asked and what was said on its own, by which chunks were there."""


class QualityLog:
    """
    Everything that was found out.

    Parameters
    ----------
    head
        What is the same for all dialogues, as JSON has it.
    file
        Where to keep it; what it holds already counts. None for nowhere.

    Raises
    ------
    ConfigError
        The file is not such a log, or of something else.

    """

    def __init__(self, head: Mapping[str, object], file: Path | None) -> None:
        self.found: dict[Place, Cases] = {}
        self._file = file
        if file is None:
            return
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        if lines and not lines[-1].endswith(b'\n'):  # the run was ended while it wrote
            lines.pop()
        try:
            kept = json.loads(lines[0]) if lines else head
            self.found.update(map(_read, lines[1:]))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f'{file}: not a log of this bench: {error}') from error
        if kept != head:
            raise ConfigError(
                f'{file}: measured with other settings, {kept}', hint='use another file'
            )
        file.write_bytes(b''.join(lines) or _line(head))

    def add(self, place: Place, cases: Cases) -> None:
        """Keep what was found out."""
        self.found[place] = cases
        if self._file is None:
            return
        values = {
            case: {
                'asked': [{**asdict(one), 'outcome': one.outcome.value} for one in asked],
                'said': [asdict(one) for one in said],
            }
            for case, (asked, said) in cases.items()
        }
        with self._file.open('ab') as stream:
            stream.write(_line({'place': asdict(place), 'cases': values}))

    def of(self, places: Iterable[Place]) -> dict[Place, Cases]:
        """Return what was found out about these places."""
        return {place: self.found[place] for place in places if place in self.found}


def _line(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode() + b'\n'


def _read(line: bytes) -> tuple[Place, Cases]:
    values = json.loads(line)
    cases: Cases = {}
    for case, found in values['cases'].items():
        asked = [Asked(**{**one, 'outcome': Outcome(one['outcome'])}) for one in found['asked']]
        cases[case] = asked, [Said(**one) for one in found['said']]
    return Place(**values['place']), cases
