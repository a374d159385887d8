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
from cwm_ros.model.chat import ChatRenderer, load_template
from cwm_ros.model.families import read_spec
from cwm_ros.model.identity import model_identity
from cwm_ros.model.tokenizer import stop_ids, Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

    from cwm_ros.config import EngineSettings
    from cwm_ros.kv import KVSpec, ModelIdentity
    from cwm_ros.model.card import Card
    from cwm_ros.model.spec import ModelSpec

REFERENCE = 'reference'
CODINGS = {
    'int8': 'weights int8 blocks of 32 v1',
    'int4': 'weights int4 blocks of 32 v1',
    'int8-columns': 'weights int8 columns v1',
}
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
    weights
        What an engine computes with: 'fp32', 'fp16', 'int8' or 'int4' of the CPU engine, or
        'int8-columns' of a GPU. Coded weights have an identity of their own.

    Attributes
    ----------
    folder, spec, kv_spec, identity
        Where it is, its blocks, the geometry of its cache, and what must match.
    tokenizer, chat, stop_ids
        Text to tokens, turns to tokens, and which tokens end an answer.
    card
        What is known about the model beside that.
    weights
        As given.

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
    weights: str

    def __init__(self, folder: Path, cache: Path, weights: str = 'fp32') -> None:
        self.folder = folder
        self.weights = weights
        self.spec = read_spec(folder)
        template = load_template(folder)  # its process starts meanwhile
        self.card = read_card(folder)
        self.kv_spec = self.spec.kv_spec
        name, coding = folder.resolve().name, CODINGS.get(weights, '')
        self.identity = model_identity(folder, self.spec, name, cache, coding)
        self.tokenizer = Tokenizer(folder)
        if self.tokenizer.vocab_size > self.spec.vocab_size:
            raise ModelError(
                f'{folder}: tokenizer.json has ids up to {self.tokenizer.vocab_size - 1}, '
                f'config.json a vocab_size of {self.spec.vocab_size}',
                hint='take all files from one release',
            )
        self.chat = ChatRenderer(self.tokenizer, template, folder)
        self.stop_ids = stop_ids(folder) | self.chat.end_ids()
        if max(self.stop_ids) >= self.tokenizer.vocab_size:
            raise ModelError(
                f'{folder}: eos_token_id names {max(self.stop_ids)}, '
                f'tokenizer.json has ids up to {self.tokenizer.vocab_size - 1}',
                hint='take all files from one release',
            )

    @property
    def is_embedding_coded(self) -> bool:
        """Whether an engine takes embeddings from codes of 8 bits."""
        return self.weights in ('int8', 'int4')

    @classmethod
    def configured(cls, settings: EngineSettings) -> Self:
        """Open the checkpoint that settings name, with the weights they ask for."""
        return cls(find_model(settings.model), settings.cache_path, settings.weights)


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
