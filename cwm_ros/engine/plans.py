# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Engine files: the compiled parts of one model in one precision, in one folder.

``engine.json``, the sidecar, says of what the files were made, for what machine, and how large
they are; without it a folder is no engine, and it is written last. What is being built lies in
a folder ``*.building`` beside, from which an interrupted build goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
import json
from typing import TYPE_CHECKING, TypeVar

from cwm_ros.errors import EngineError, FormatError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cwm_ros.kv import ModelIdentity

SIDECAR_FILE = 'engine.json'
SIDECAR_VERSION = 1
PARTS_VERSION = 2
"""Goes up whenever graphs of parts or kernels change, so that engines are built anew."""
KERNELS_FILE = 'kernels.cubin'
MAX_SIDECAR_BYTES = 1 << 20
BUILD_HINT = 'build it: cwm engine build'

Facts = TypeVar('Facts', 'Recipe', 'Machine')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """
    What an engine is made of, beside the weights.

    Parameters
    ----------
    model, name
        Hexadecimal model identity, and its name for people.
    precision
        'fp32', 'fp16' or 'int8'.
    context_tokens
        Longest session [tokens].
    slice_tokens
        Most tokens computed at once.
    group_layers
        Layers of a part.
    level
        How long the compiler looks for fast code, 0 to 5.
    parts_version
        Of the graphs.

    """

    model: str
    name: str
    precision: str
    context_tokens: int
    slice_tokens: int
    group_layers: int
    level: int
    parts_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """
    What engine files are bound to.

    Parameters
    ----------
    tensorrt
        Version, such as '10.3.0'.
    gpu
        Name of the GPU.
    capability
        Compute capability, such as '8.7'.

    """

    tensorrt: str
    gpu: str
    capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """
    What ``engine.json`` says.

    Parameters
    ----------
    recipe, machine
        Made of what, and for what.
    files
        Name and size [bytes] of each file.
    build_s
        How long it took [s].

    """

    recipe: Recipe
    machine: Machine
    files: Mapping[str, int]
    build_s: float

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps({'version': SIDECAR_VERSION, **asdict(self)}, indent=1)


def engine_folder(root: Path, identity: ModelIdentity, precision: str) -> Path:
    """Return where the engine of a model and precision lies, or would."""
    return root / 'engines' / f'{identity.model.hex()[:32]}-{precision}'


def part_file(index: int) -> str:
    """Return the name of a compiled part."""
    return f'part-{index:03}.plan'


def read_sidecar(folder: Path) -> Sidecar:
    """
    Read an engine's sidecar.

    Raises
    ------
    NotFoundError
        There is no engine in the folder.
    FormatError
        The sidecar is not one.

    """
    path = folder / SIDECAR_FILE
    try:
        with path.open('rb') as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFoundError(f'{folder}: there is no engine', hint=BUILD_HINT) from exc
    except OSError as exc:
        raise EngineError(f'{path}: cannot be read: {exc}') from exc
    try:
        document = json.loads(data)
        if document['version'] != SIDECAR_VERSION or len(data) > MAX_SIDECAR_BYTES:
            raise FormatError(path, f'version is {document["version"]}')
        files = {str(name): int(size) for name, size in document['files'].items()}
        if any('/' in name or name.startswith('.') for name in files):
            raise FormatError(path, 'a file lies elsewhere')
        return Sidecar(
            recipe=_facts(Recipe, document['recipe']),
            machine=_facts(Machine, document['machine']),
            files=files,
            build_s=float(document['build_s']),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise FormatError(path, f'is not an engine sidecar: {exc!r}') from exc


def _facts(kind: type[Facts], values: Mapping[str, str | int]) -> Facts:
    kinds = {'str': str, 'int': int}
    arguments = {}
    for field in fields(kind):
        value = values[field.name]
        if type(value) is not kinds[str(field.type)]:
            raise TypeError(f'{field.name} is {value!r}')
        arguments[field.name] = value
    return kind(**arguments)  # type: ignore[arg-type]


def find_problems(
    folder: Path,
    sidecar: Sidecar,
    machine: Machine,
    *,
    identity: ModelIdentity,
    context_tokens: int,
    slice_tokens: int,
) -> list[str]:
    """Return why an engine cannot be used here, for people; empty when it can."""
    recipe, problems = sidecar.recipe, []
    if recipe.model != identity.model.hex():
        problems.append(f'it is of another model, {recipe.name}')
    if recipe.parts_version != PARTS_VERSION:
        problems.append(f'its graphs are of version {recipe.parts_version}, not {PARTS_VERSION}')
    for name, built in asdict(sidecar.machine).items():
        if built != getattr(machine, name):
            problems.append(f'it was built for {name} {built}, here is {getattr(machine, name)}')
    if recipe.context_tokens < context_tokens:
        problems.append(f'it holds {recipe.context_tokens} tokens, not {context_tokens}')
    if recipe.slice_tokens < slice_tokens:
        problems.append(f'its slices hold {recipe.slice_tokens} tokens, not {slice_tokens}')
    for name, size in sidecar.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else -1
        if found != size:
            what = f'has {found} bytes, not {size}' if found >= 0 else 'is missing'
            problems.append(f'{name} {what}')
    return problems


def list_engines(root: Path) -> list[tuple[Path, Sidecar | str]]:
    """Return each engine's folder, with its sidecar or what is wrong with it."""
    found: list[tuple[Path, Sidecar | str]] = []
    for folder in sorted((root / 'engines').glob('*')):
        if not folder.is_dir():
            continue
        try:
            found.append((folder, read_sidecar(folder)))
        except (FormatError, NotFoundError, EngineError) as exc:
            found.append((folder, exc.message))
    return found
