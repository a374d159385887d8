# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Other ways to bring the same KV back, and the limits that no way can beat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import ctypes
import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.bench.thaw_contest import complete_after, Contestant, WARM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from cwm_ros.bench.thaw_synthetic import Geometry
    from cwm_ros.codec.quantize import HalfArray

HEAD_BYTES = 4096
"""A short first read: the rest then comes fastest, see `cwm_ros.store.files.read_into`."""
LLAMA_BATCH = 512
LLAMA_VOCABULARY = 256


def sync_file(path: Path) -> None:
    """Make a file's pages clean, so that they can be dropped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_limits(case: str, files: Sequence[Path], num_threads: int) -> list[Contestant]:
    """Return the contestants that only read the files: one thread, and so many."""
    largest = max(path.stat().st_size for path in files)
    buffers = threading.local()

    def read(path: Path) -> None:
        if not hasattr(buffers, 'view'):
            buffers.view = memoryview(bytearray(largest))
        view, descriptor = buffers.view, os.open(path, os.O_RDONLY)
        count = os.preadv(descriptor, [view[:HEAD_BYTES]], 0)
        os.preadv(descriptor, [view[count:]], count)
        os.close(descriptor)

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix='read-limit')
    ways: dict[str, Callable[[], object]] = {
        'raw-read': lambda: list(map(read, files)),
        'raw-read-parallel': lambda: list(pool.map(read, files)),
    }
    num_bytes = sum(path.stat().st_size for path in files)
    return [
        Contestant(case=case, path=path, run=complete_after(way, num_bytes), files=files)
        for path, way in ways.items()
    ]


def copy_limit(case: str, num_bytes: int) -> Contestant:
    """Return the contestant that only copies as many bytes as decoding makes, one thread."""
    source, target = np.ones((2, num_bytes), np.uint8)
    return Contestant(
        case=case,
        path='memcpy',
        run=complete_after(lambda: np.copyto(target, source), num_bytes),
        states=(WARM,),
    )


def array_peers(case: str, kv: HalfArray, folder: Path) -> list[Contestant]:
    """
    Write KV as float16 with NumPy and safetensors; return what loads it.

    'np.load-mmap' copies into a cache that is there, as cwm does; the others make a new array.
    """
    from safetensors.numpy import load_file, save_file

    numpy_file, tensors_file = folder / 'kv.npy', folder / 'kv.safetensors'
    cache = np.ones_like(kv)
    np.save(numpy_file, kv)
    save_file({'kv': kv}, tensors_file)
    loads: dict[str, tuple[Path, Callable[[], object]]] = {
        'np.load': (numpy_file, lambda: np.load(numpy_file)),
        'np.load-mmap': (numpy_file, lambda: np.copyto(cache, np.load(numpy_file, 'r'))),
        'safetensors': (tensors_file, lambda: load_file(tensors_file)),
    }
    contestants = []
    for path, (file, load) in loads.items():
        sync_file(file)
        run = complete_after(load, file.stat().st_size)
        contestants.append(Contestant(case=case, path=path, run=run, files=[file]))
    return contestants


def has_llama() -> bool:
    """Say whether llama.cpp can take part: its bindings and the writer of its files."""
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except ImportError:
        return False
    return True


def llama_peer(case: str, geometry: Geometry, folder: Path, closing: ExitStack) -> Contestant:
    """
    Fill a llama.cpp context of the same geometry; return what loads its state from a file.

    Parameters
    ----------
    case, geometry
        The case, and the KV's size.
    folder
        For model and state.
    closing
        Frees the context.

    """
    import llama_cpp

    model_file, state_file = folder / 'random.gguf', folder / 'state.bin'
    _write_gguf(model_file, geometry)
    tokens = [1 + i % (LLAMA_VOCABULARY - 1) for i in range(geometry.num_tokens)]
    model = llama_cpp.Llama(
        str(model_file), n_ctx=len(tokens), n_batch=LLAMA_BATCH, flash_attn=True, verbose=False
    )
    closing.callback(model.close)
    model.eval(tokens)
    context = model.ctx
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    name = str(state_file).encode()
    llama_cpp.llama_state_seq_save_file(context, name, 0, array, len(tokens))
    sync_file(state_file)
    count = ctypes.c_size_t(0)

    def load() -> None:
        loaded = llama_cpp.llama_state_seq_load_file(
            context, name, 0, array, len(tokens), ctypes.byref(count)
        )
        assert loaded, 'llama.cpp refuses its own state'

    return Contestant(
        case=case,
        path='llama.cpp',
        run=complete_after(load, state_file.stat().st_size),
        files=[state_file],
    )


def _write_gguf(file: Path, geometry: Geometry) -> None:
    """Write a llama model with random weights whose cache has the geometry; float16 KV."""
    import gguf

    spec, rng = geometry.spec, np.random.default_rng(0)
    width, narrow = spec.num_kv_heads * spec.head_dim, 64
    writer = gguf.GGUFWriter(file, 'llama')
    writer.add_context_length(geometry.num_tokens)
    writer.add_embedding_length(width)
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(narrow)
    writer.add_head_count(spec.num_kv_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_tokenizer_model('llama')
    writer.add_token_list([f'<{i}>'.encode() for i in range(LLAMA_VOCABULARY)])
    writer.add_token_scores([0.0] * LLAMA_VOCABULARY)
    writer.add_token_types([1] * LLAMA_VOCABULARY)
    shapes = {'token_embd': (LLAMA_VOCABULARY, width), 'output': (LLAMA_VOCABULARY, width)}
    for layer in range(spec.num_layers):
        names = dict.fromkeys(('attn_q', 'attn_k', 'attn_v', 'attn_output'), (width, width))
        names |= {'ffn_gate': (narrow, width), 'ffn_up': (narrow, width)}
        names['ffn_down'] = (width, narrow)
        shapes |= {f'blk.{layer}.{name}': shape for name, shape in names.items()}
        for norm in ('attn_norm', 'ffn_norm'):
            writer.add_tensor(f'blk.{layer}.{norm}.weight', np.ones(width, np.float32))
    writer.add_tensor('output_norm.weight', np.ones(width, np.float32))
    for name, shape in shapes.items():
        weights = rng.standard_normal(shape, np.float32) / np.float32(width**0.5)
        writer.add_tensor(f'{name}.weight', weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
