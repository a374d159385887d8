# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of published models by name, for sizing them before they are downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.model.config_file import Config
from cwm_ros.model.families import describe

if TYPE_CHECKING:
    from cwm_ros.model.spec import ModelSpec

TABLE = Path(__file__).with_name('published.json')
"""Geometry only: the fields of each config.json that a description is made from."""


def published_names() -> list[str]:
    """Return the names of the table, in its order."""
    return list(Config(TABLE).fields)


def published_spec(name: str) -> ModelSpec:
    """
    Return the description of a published model.

    Raises
    ------
    ModelError
        The table has no such model, or the model cannot run here.

    """
    entry = Config(TABLE).sub(name)
    if entry is None:
        raise ModelError(
            f'{name!r} is neither a folder nor in the table',
            hint='use one of ' + ', '.join(published_names()),
        )
    return describe(entry)
