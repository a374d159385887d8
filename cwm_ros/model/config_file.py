# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Typed access to a checkpoint's JSON files, with errors that name file, field and value."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_CONFIG_BYTES = 1 << 20
MAX_INTEGER = 1 << 24
SHOWN_CHARS = 80


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, object]:
    """
    Read a JSON object of at most ``limit`` bytes.

    Raises
    ------
    ModelError
        The file is missing, too long, not JSON, or not an object.

    """
    try:
        if path.stat().st_size > limit:
            raise ModelError(f'{path}: longer than {limit} bytes', hint='download it again')
        document = json.loads(path.read_bytes())
    except OSError as exc:
        raise ModelError(
            f'{path}: cannot be read: {exc.strerror}',
            hint='give a checkpoint folder in the published Hugging Face layout',
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise ModelError(f'{path}: is not JSON: {exc}', hint='download the file again') from exc
    if not isinstance(document, dict):
        raise ModelError(f'{path}: is not a JSON object', hint='download the file again')
    return document


class Config:
    """
    Typed access to config.json.

    A field that is null counts as absent.

    Parameters
    ----------
    path
        The file, for messages.
    fields
        What it holds; None reads it.

    """

    def __init__(self, path: Path, fields: Mapping[str, object] | None = None) -> None:
        self.path = path
        self.fields = read_json(path) if fields is None else fields

    def get(self, name: str) -> object:
        """Return the value of a field, None when it is absent."""
        return self.fields.get(name)

    def of(self, fields: Mapping[str, object]) -> Config:
        """Return access to ``fields`` of the same file."""
        return Config(self.path, fields)

    def refuse(self, name: str, remedy: str) -> ModelError:
        """Return the error that names a field's value, and what to do about it."""
        value = repr(self.get(name))
        shown = value if len(value) <= SHOWN_CHARS else f'{value[:SHOWN_CHARS]}…'
        return ModelError(f'{self.path}: {name} is {shown}', hint=remedy)

    def integer(self, name: str, default: int | None = None) -> int:
        """Read a positive integer; None as default means that it must be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value <= MAX_INTEGER:
            raise self.refuse(name, 'it must be a positive integer')
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Read a positive, finite number; None as default means that it must be there."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float):
            raise self.refuse(name, 'it must be a number')
        result = float(value)  # type: ignore[arg-type]
        if not (math.isfinite(result) and result > 0):
            raise self.refuse(name, 'it must be positive and finite')
        return result

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """Read a list of ``length`` positive numbers."""
        values = self.get(name)
        if not isinstance(values, list) or len(values) != length:
            raise self.refuse(name, f'it must be a list of {length} numbers')
        return tuple(self.of({name: value}).number(name) for value in values)

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.refuse(name, 'it must be true or false')
        return value

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a field that is neither absent nor one of ``allowed``."""
        if self.get(name) is not None and self.get(name) not in allowed:
            raise self.refuse(name, 'supported: ' + ', '.join(map(repr, allowed)))

    def sub(self, name: str) -> Config | None:
        """Return access to an object within; None when it is absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, 'it must be an object')
        return Config(self.path, value)
