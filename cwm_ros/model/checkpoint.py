# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder in the published Hugging Face layout, opened."""

from __future__ import annotations

import os
from pathlib import Path
import site
import sys
import sysconfig
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.model.card import read_card
from cwm_ros.model.chat import load_chat
from cwm_ros.model.families import read_spec
from cwm_ros.model.identity import model_identity
from cwm_ros.model.tokenizer import stop_ids, Tokenizer

if TYPE_CHECKING:
    from cwm_ros.kv import KVSpec, ModelIdentity
    from cwm_ros.model.card import Card
    from cwm_ros.model.chat import ChatRenderer
    from cwm_ros.model.spec import ModelSpec

REFERENCE = 'reference'
SHARE = Path('share') / 'cwm_ros' / 'engines' / REFERENCE


class Checkpoint:
    """
    What a checkpoint folder holds, apart from the weights themselves.

    Parameters
    ----------
    folder
        Folder with config.json, weights and tokenizer.
    cache
        Folder where the identity is kept, so that opening is fast.

    Attributes
    ----------
    folder, spec, kv_spec, identity
        Where it is, its blocks, the geometry of its cache, and what must match.
    tokenizer, chat, stop_ids
        Text to tokens, turns to tokens, and which tokens end an answer.
    card
        What is known about the model beside that.

    Raises
    ------
    ModelError
        The checkpoint cannot run here; the message names file, field and value.

    """

    folder: Path
    spec: ModelSpec
    kv_spec: KVSpec
    identity: ModelIdentity
    tokenizer: Tokenizer
    chat: ChatRenderer
    stop_ids: frozenset[int]
    card: Card

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.spec = read_spec(folder)
        self.card = read_card(folder)
        self.kv_spec = self.spec.kv_spec
        self.identity = model_identity(folder, self.spec, folder.resolve().name, cache)
        self.tokenizer = Tokenizer(folder)
        if self.tokenizer.vocab_size > self.spec.vocab_size:
            raise ModelError(
                f'{folder}: tokenizer.json has ids up to {self.tokenizer.vocab_size - 1}, '
                f'config.json a vocab_size of {self.spec.vocab_size}',
                hint='take all files from one release',
            )
        self.chat = load_chat(folder, self.tokenizer)
        self.stop_ids = stop_ids(folder) | self.chat.end_ids()


def find_model(name: str) -> Path:
    """
    Return the checkpoint folder that ``name`` means: 'reference', or a path.

    Raises
    ------
    ModelError
        There is no such folder.

    """
    if name != REFERENCE:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f'{folder}: is not a folder',
                hint="set engine.model to a checkpoint folder, or to 'reference'",
            )
        return folder
    places = _reference_places()
    for folder in places:
        if (folder / 'config.json').is_file():
            return folder
    raise ModelError(
        'the reference model is not installed, looked in ' + ', '.join(map(str, places)),
        hint='install the package, or set engine.model to a checkpoint folder',
    )


def _reference_places() -> list[Path]:
    """Return where the reference model may lie: ROS overlays, the installation, the source."""
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    roots = [Path(prefix) for prefix in prefixes if prefix]
    roots += [Path(sys.prefix), Path(sysconfig.get_path('data')), Path(site.getuserbase())]
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / 'engines' / REFERENCE, *(root / SHARE for root in roots)]
    return list(dict.fromkeys(places))
