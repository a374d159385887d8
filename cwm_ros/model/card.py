# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is known about a model and stands in none of its published files: card.yaml beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import TYPE_CHECKING

import yaml

from cwm_ros.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CARD_FILE = 'card.yaml'
MAX_CARD_BYTES = 1 << 20
MAX_PHRASES = 256
PARSE_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """
    A model's card; without a file its fields are empty.

    Parameters
    ----------
    abstentions
        With what words the model's answer begins when it does not know.
    codec_kl
        By codec: how far its next tokens are moved by sending the KV through the codec, as
        Kullback-Leibler divergence [nats].

    """

    abstentions: tuple[str, ...] = ()
    codec_kl: Mapping[str, float] = field(default_factory=dict)


def read_card(folder: Path) -> Card:
    """
    Read the card of a checkpoint folder.

    Raises
    ------
    ModelError
        There is one that cannot be read, or holds something else.

    """
    path = folder / CARD_FILE
    if not path.exists():
        return Card()
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f'is larger than {MAX_CARD_BYTES} bytes')
        document = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
        return Card(
            abstentions=_phrases(document.get('abstentions', [])),
            codec_kl=_divergences(document.get('codec_kl', {})),
        )
    except (*PARSE_ERRORS, yaml.YAMLError) as exc:
        raise ModelError(
            f'{path}: cannot be read: {exc}', hint='mend it, or take it away'
        ) from exc


def _phrases(value: object) -> tuple[str, ...]:
    phrases = value if isinstance(value, list) and len(value) <= MAX_PHRASES else ['']
    if not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
        raise ValueError(f'abstentions is {value!r}, not a list of texts')
    return tuple(phrases)


def _divergences(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f'codec_kl is {value!r}, not a mapping')
    found = {str(codec): float(kl) for codec, kl in value.items()}
    if not all(math.isfinite(kl) and kl > 0 for kl in found.values()):
        raise ValueError(f'codec_kl is {value!r}: one is not a positive number')
    return found
