# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every way to be wrong is planted into whole, well-formed chunk files; each is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cwm_ros.codec import (
    bound_at,
    codec_named,
    decode_chunk,
    encode_chunk,
    error_bound,
    numpy_kernels,
    Scratch,
)
from cwm_ros.config import EngineSettings
from cwm_ros.engine import LogitRows, open_engine
from cwm_ros.errors import ErrorCode, FormatError, RestoreNotEffectiveError
from cwm_ros.kv import KVSpec
from cwm_ros.model import build_graph, Checkpoint
from cwm_ros.opening import find_session, proof_of
from cwm_ros.probe import (
    EndProbe,
    engine_kl,
    HALF_ROUNDOFF,
    log_softmax,
    pack_probe,
    Probe,
    unpack_probe,
)
from cwm_ros.proof import ChunkProof, unpack_samples
from cwm_ros.store import ChunkHeader
from cwm_ros.verdict import Verdict
from tests.conftest import TINY
from tests.fakes import assert_verified, complete, freeze, ingest, make_window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from cwm_ros.codec.kernels import Kernels
    from cwm_ros.kv import FloatArray
    from cwm_ros.manager import Manager
    from cwm_ros.store import Manifest
    from tests.conftest import OpenManager

    Change = Callable[[list[FloatArray]], None]

CODECS = ('raw', 'int8', 'int4')
NUM_TURNS = 6


def manifest_of(manager: Manager, name: str = 'trip') -> Manifest:
    manifest = manager.store.window(name).manifest
    assert manifest is not None
    return manifest


def plant(manager: Manager, change: Change) -> None:
    """Replace the content of chunk files; headers, names and checksums are in order."""
    manifest = manifest_of(manager)
    contents = []
    for entry in manifest.chunks:
        payload = manager.store.read_chunk(manifest, entry, bytearray(entry.payload_bytes))
        assert payload is not None
        kv = np.empty(manifest.spec.shape(entry.stop - entry.start), np.float32)
        decode_chunk(
            payload,
            spec=manifest.spec,
            num_tokens=entry.stop - entry.start,
            codec=codec_named(entry.codec),
            out=kv,
            scratch=Scratch(),
            source=Path('chunk'),
        )
        contents.append(kv)
    before = [kv.copy() for kv in contents]
    change(contents)
    for entry, old, new in zip(manifest.chunks, before, contents, strict=True):
        if np.array_equal(old, new):
            continue
        manager.store.discard_chunk(entry)
        header = ChunkHeader(
            id=entry.id,
            model=manifest.identity.model,
            spec=manifest.spec,
            start=entry.start,
            stop=entry.stop,
            codec=entry.codec,
        )
        payload = encode_chunk(
            np.ascontiguousarray(new), codec_named(entry.codec), 'none', Scratch()
        )
        tokens = manifest.tokens[entry.start : entry.stop]
        manager.store.write_chunk(header, tokens, payload)
    assert_verified(manager)


def kv_of(folder: Path, tokens: Sequence[int], cache: Path, *, start: int = 0) -> FloatArray:
    """Return the KV that a model computes for tokens that begin at a position."""
    model = Checkpoint(folder, cache)
    with open_engine(
        lambda formulation: build_graph(model, formulation, cache),
        model.kv_spec,
        model.identity,
        EngineSettings(threads=1),
    ) as engine:
        engine.run(np.array(tokens, np.int32), start, rows=LogitRows.NONE)
        return engine.export_kv(start, start + len(tokens)).kv.copy()


def other_model(folder: Path, layer: int) -> Path:
    """Return the tiny model with one layer's projections a little different."""
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / 'model.safetensors')
    for name in ('k_proj', 'v_proj'):
        tensors[f'model.layers.{layer}.self_attn.{name}.weight'] *= np.float32(1.1)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    return folder


def frozen(open_tiny: OpenManager, codec: str = 'raw') -> Manifest:
    with open_tiny(codec={'kind': codec}) as manager:
        make_window(manager, 'trip', NUM_TURNS)
        return manifest_of(manager)


def thawed(open_tiny: OpenManager, change: Change, codec: str = 'raw') -> Manager:
    with open_tiny(codec={'kind': codec}) as manager:
        plant(manager, change)
    manager = open_tiny(codec={'kind': codec})
    manager.open_window('trip')
    complete(manager)
    return manager


def assert_right(manager: Manager, cache: Path, codec: str, rejected: Sequence[int]) -> None:
    """Assert that some chunks were computed, the others reused, and the session is right."""
    session, thaw, manifest = manager.session, manager.thaw, manifest_of(manager)
    assert thaw is not None
    result = thaw.result()
    lengths = {entry.start: entry.stop - entry.start for entry in manifest.chunks}
    recomputed = sum(lengths[start] for start in rejected)
    assert result.rejected_chunks == len(rejected)
    assert result.recomputed_tokens == recomputed
    assert result.reused_tokens == sum(lengths.values()) - recomputed
    assert result.masked_tokens == 0
    assert result.verdict is Verdict.PROVEN, result.reason
    truth = kv_of(TINY, session.tokens.tolist(), cache)
    kv = session.engine.export_kv(0, session.num_tokens).kv
    atol = {'raw': 1e-4, 'int8': 0.1, 'int4': 2.0}[codec]
    np.testing.assert_allclose(kv, truth, atol=atol)
    freeze(manager)
    assert_verified(manager)


@pytest.mark.parametrize('codec', CODECS)
def test_what_is_right_is_proven(open_tiny: OpenManager, model_cache: Path, codec: str) -> None:
    manifest = frozen(open_tiny, codec)
    manager = thawed(open_tiny, lambda kv: None, codec)  # noqa: ARG005
    assert manager.warnings == ()
    assert_right(manager, model_cache, codec, [])
    assert manifest_of(manager).probe == manifest.probe
    assert manifest_of(manager).samples == manifest.samples
    assert manager.thaw is not None
    manager.thaw.result().check()


def swap(kv: list[FloatArray]) -> None:
    kv[1][...], kv[2][...] = kv[2].copy(), kv[1].copy()


def shift(kv: list[FloatArray]) -> None:
    kv[1][...] = np.roll(kv[1], 1, axis=3)


def blank_first(kv: list[FloatArray]) -> None:
    kv[1][0] = 0


@pytest.mark.parametrize('codec', CODECS)
@pytest.mark.parametrize(
    ('change', 'starts', 'name'),
    [
        (swap, (128, 256), 'KV of tokens +128 away'),
        (shift, (128,), 'KV of tokens -1 away'),
        (blank_first, (128,), 'keys and values of layer 0 are zero'),
    ],
)
def test_chunks_that_are_swapped_shifted_or_blank(  # noqa: PLR0917 - what pytest passes
    open_tiny: OpenManager,
    model_cache: Path,
    codec: str,
    change: Change,
    starts: tuple[int, ...],
    name: str,
) -> None:
    frozen(open_tiny, codec)
    manager = thawed(open_tiny, change, codec)
    assert len(manager.warnings) == len(starts)
    if codec != 'int4':  # whose error hides what exactly it is
        assert any(name in warning for warning in manager.warnings), manager.warnings
    assert_right(manager, model_cache, codec, starts)


def test_positions_that_are_off_by_one(open_tiny: OpenManager, model_cache: Path) -> None:
    tokens = frozen(open_tiny).tokens.tolist()
    late = kv_of(TINY, tokens, model_cache, start=1)

    def change(kv: list[FloatArray]) -> None:
        kv[1][...] = late[:, :, :, 128:256]

    manager = thawed(open_tiny, change)
    assert 'positions are off by 1' in manager.warnings[0]
    assert_right(manager, model_cache, 'raw', [128])


def test_a_foreign_chunk_under_a_forged_identity(
    open_tiny: OpenManager, model_cache: Path
) -> None:
    frozen(open_tiny)
    others = np.random.default_rng(5).integers(6, 262, 256).tolist()
    foreign = kv_of(TINY, others, model_cache)

    def change(kv: list[FloatArray]) -> None:
        kv[1][...] = foreign[:, :, :, 128:]

    manager = thawed(open_tiny, change)
    assert 'other tokens or of other weights' in manager.warnings[0]
    assert_right(manager, model_cache, 'raw', [128])


@pytest.mark.parametrize('layer', [0, -1])
@pytest.mark.parametrize('codec', ['raw', 'int8'])
def test_stale_weights(
    open_tiny: OpenManager, model_cache: Path, tmp_path: Path, layer: int, codec: str
) -> None:
    manifest = frozen(open_tiny, codec)
    layer %= manifest.spec.num_layers
    stale = kv_of(other_model(tmp_path / 'old', layer), manifest.tokens.tolist(), model_cache)

    def change(kv: list[FloatArray]) -> None:
        for entry, part in zip(manifest.chunks, kv, strict=True):
            part[...] = stale[:, :, :, entry.start : entry.stop]

    manager = thawed(open_tiny, change, codec)
    expected = 'other weights' if not layer else f'layer {layer} are not those'
    assert all(expected in warning for warning in manager.warnings[: len(manifest.chunks)])
    assert manager.thaw is not None
    result = manager.thaw.result()
    assert result.verdict is Verdict.NOT_EFFECTIVE
    assert (result.reused_tokens, result.masked_tokens) == (0, 0)
    with pytest.raises(RestoreNotEffectiveError) as caught:
        result.check()
    assert caught.value.code is ErrorCode.RESTORE_NOT_EFFECTIVE
    truth = kv_of(TINY, manager.session.tokens.tolist(), model_cache)
    kv = manager.session.engine.export_kv(0, manager.session.num_tokens).kv
    np.testing.assert_allclose(kv, truth, atol=1e-4)


@pytest.mark.parametrize(
    ('codec', 'loops'), [*((codec, 'numpy') for codec in CODECS), ('int8', 'numba')]
)
def test_every_layer_of_every_chunk_is_missed(
    open_tiny: OpenManager, compiled: Kernels, codec: str, loops: str
) -> None:
    """A layer that is zero somewhere changes the end too little to be seen there."""
    kernels = compiled if loops == 'numba' else numpy_kernels()
    manifest = frozen(open_tiny, codec)
    manager = open_tiny(codec={'kind': codec})
    window, model = manager.store.window('trip'), manager._loaded
    found = find_session(window, model, manager.store, manager.settings)
    proof = proof_of(found, model, manager.settings.thaw.proof_tokens)
    scratch, planted = Scratch(), 0
    for entry in manifest.chunks:
        length = entry.stop - entry.start
        payload = manager.store.read_chunk(manifest, entry, bytearray(entry.payload_bytes))
        assert payload is not None
        kv = np.empty(manifest.spec.shape(length), np.float32)
        codec_id = codec_named(entry.codec)
        decode_chunk(
            payload,
            spec=manifest.spec,
            num_tokens=length,
            codec=codec_id,
            out=kv,
            scratch=scratch,
            source=Path('chunk'),
        )
        proof.check(entry, payload, kv, Path('chunk'), kernels)
        for layer in range(manifest.spec.num_layers):
            for part in (0, 1):
                wrong = kv.copy()
                wrong[layer, part] = 0
                other = encode_chunk(wrong, codec_id, 'none', scratch)
                planted += 1
                name = f'{("keys", "values")[part]} of layer {layer} are zero'
                with pytest.raises(FormatError, match=name):
                    proof.check(entry, other, wrong, Path('chunk'), kernels)
    assert planted == len(manifest.chunks) * manifest.spec.num_layers * 2


@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_compiled_kernels_are_enough_for_what_is_right(
    open_tiny: OpenManager,
    compiled: Kernels,
    monkeypatch: pytest.MonkeyPatch,
    dtype: type[np.float32 | np.float16],
) -> None:
    manifest = frozen(open_tiny, 'int8')
    manager = open_tiny(codec={'kind': 'int8'})
    window, model = manager.store.window('trip'), manager._loaded
    found = find_session(window, model, manager.store, manager.settings)
    proof = proof_of(found, model, manager.settings.thaw.proof_tokens)
    monkeypatch.delattr(ChunkProof, '_pick')
    for entry in manifest.chunks:
        payload = manager.store.read_chunk(manifest, entry, bytearray(entry.payload_bytes))
        assert payload is not None
        cache = np.zeros(manifest.spec.shape(entry.stop - entry.start + 9), dtype)
        kv = cache[:, :, :, 9:]
        decode_chunk(
            payload,
            spec=manifest.spec,
            num_tokens=entry.stop - entry.start,
            codec=codec_named('int8'),
            out=kv,
            scratch=Scratch(),
            source=Path('chunk'),
        )
        proof.check(entry, payload, kv, Path('chunk'), compiled)
        kv[0, 0, 0] += dtype(1)
        with pytest.raises(AttributeError, match='_pick'):
            proof.check(entry, payload, kv, Path('chunk'), compiled)


def test_a_restore_that_goes_nowhere_is_no_success(
    open_tiny: OpenManager, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is read and right, but not where attention reads it."""
    manifest = frozen(open_tiny)
    manager = open_tiny()
    real = manager.engine.import_view
    monkeypatch.setattr(
        manager.engine, 'import_view', lambda start, stop: np.zeros_like(real(start, stop))
    )
    manager.open_window('trip')
    complete(manager)
    assert manager.thaw is not None
    result = manager.thaw.result()
    assert result.verdict is Verdict.NOT_EFFECTIVE
    assert result.divergence > result.limit > 0
    assert 'nats from the probe' in manager.warnings[-1]
    assert (result.reused_tokens, result.recomputed_tokens) == (0, len(manifest.tokens))
    monkeypatch.undo()
    truth = kv_of(TINY, manager.session.tokens.tolist(), model_cache)
    np.testing.assert_allclose(
        manager.session.engine.export_kv(0, len(manifest.tokens)).kv, truth, atol=1e-4
    )
    manager.close()
    with open_tiny() as after:
        thaw = after.open_window('trip')
        complete(after)
        assert_verified(after)
        assert thaw.result().reused_tokens == 0, 'files that had no effect are not used again'


def test_a_window_without_a_probe_or_with_one_of_another_version_is_unproven(
    open_tiny: OpenManager,
) -> None:
    manifest = frozen(open_tiny)
    earlier, later = (version.to_bytes(2, 'little') + manifest.probe[2:] for version in (0, 2))
    for probe, reason in (
        (b'', 'no end probe'),
        (earlier, 'version 0'),
        (later, 'version 2'),
        (b'\1', 'too short'),
    ):
        with open_tiny() as manager:
            manager.store.commit_window(replace(manifest, probe=probe, samples=b'\0' * 30))
        with open_tiny() as manager:
            thaw = manager.open_window('trip')
            complete(manager)
            result = thaw.result()
            assert (result.verdict, manager.warnings) == (Verdict.UNPROVEN, ())
            assert reason in result.reason
            assert result.reused_tokens == len(manifest.tokens)


@pytest.mark.parametrize('num_damaged', [0, 1])
def test_a_window_without_chunks_is_recomputed_and_one_with_damaged_ones_has_failed(
    open_tiny: OpenManager, num_damaged: int
) -> None:
    """An eviction is no fault of drive or memory."""
    manifest = frozen(open_tiny)
    with open_tiny() as manager:
        paths = [manager.store.chunk_path(entry.id, entry.codec) for entry in manifest.chunks]
    for path in paths[:num_damaged]:
        path.write_bytes(b'')
    for path in paths[num_damaged:]:
        path.unlink()
    manager = open_tiny()
    thaw = manager.open_window('trip')
    assert thaw.result().masked_tokens == len(manifest.tokens)
    complete(manager)
    result = thaw.result()
    assert (result.rejected_chunks, result.reused_tokens) == (len(paths), 0)
    assert result.recomputed_tokens >= len(manifest.tokens)
    assert result.masked_tokens == 0
    if num_damaged:
        assert result.verdict is Verdict.NOT_EFFECTIVE
        with pytest.raises(RestoreNotEffectiveError, match='none of the chunks could be used'):
            result.check()
    else:
        assert result.verdict is Verdict.RECOMPUTED
        assert result.reason == 'none of the chunks is there any more'
        result.check()
    freeze(manager)
    assert_verified(manager)


def test_proof_can_be_left_out(open_tiny: OpenManager) -> None:
    with open_tiny(thaw={'proof_tokens': 0}) as manager:
        make_window(manager, 'trip', NUM_TURNS)
        assert manifest_of(manager).probe == manifest_of(manager).samples == b''
    with open_tiny(thaw={'proof_tokens': 0}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.result().verdict is Verdict.UNPROVEN


def test_a_longer_window_keeps_what_was_said_of_its_first_chunks(open_tiny: OpenManager) -> None:
    first = frozen(open_tiny)
    with open_tiny() as manager:
        manager.open_window('trip')
        complete(manager)
        ingest(manager, 4, seed=3)
        complete(manager)
        freeze(manager)
        second = manifest_of(manager)
    old, new = (unpack_samples(m.samples, m.spec) for m in (first, second))
    assert list(new) == [entry.id for entry in second.chunks]
    shared = set(old) & set(new)
    assert len(shared) == len(first.chunks) - 1
    for chunk in shared:
        np.testing.assert_array_equal(old[chunk], new[chunk])
    assert second.probe != first.probe


def test_a_probe_comes_back(open_tiny: OpenManager) -> None:
    manifest = frozen(open_tiny)
    probe = unpack_probe(manifest.probe, 262)
    assert not isinstance(probe, str)
    assert pack_probe(probe) == manifest.probe
    assert probe.stop == len(manifest.tokens)
    head, cells = manifest.probe[:24], manifest.probe[24:]
    older = head[:2] + (2).to_bytes(2, 'little') + head[4:] + bytes(len(cells)) + cells
    last = unpack_probe(older, 262)
    assert not isinstance(last, str)
    assert pack_probe(last) == manifest.probe, 'of two tokens, as older windows have, the last'
    other = manifest.tokens.copy()
    other[3] += 1
    assert EndProbe(manifest.probe, other, 262, {}).problem == 'the end probe is of other tokens'
    assert isinstance(unpack_probe(manifest.probe, 3), str)


@given(
    logits=arrays(np.float32, (2, 40), elements=st.floats(-30, 30, width=32)),
    errors=arrays(np.float64, (2, 40), elements=st.floats(-1, 1)),
    num_layers=st.integers(1, 80),
)
def test_rounding_explains_no_more_than_the_bound_for_engines(
    logits: FloatArray, errors: npt.NDArray[np.float64], num_layers: int
) -> None:
    """Whatever the logits, and however their errors of that size lie."""
    share = HALF_ROUNDOFF * (2 * num_layers + 1) ** 0.5
    moved = logits + errors * share * np.abs(logits).max()
    one, other = log_softmax(logits), log_softmax(moved)
    exact = float((np.exp(one) * (one - other)).sum(axis=1).mean())
    assert exact <= engine_kl(logits, num_layers) + 1e-12
    top = np.argsort(-one, axis=1)[:, :16]
    probe = Probe(
        stop=2,
        digest=0,
        tokens=top.astype(np.int32),
        log_probs=np.take_along_axis(one, top, axis=1).astype(np.float32),
    )
    assert probe.divergence(moved) <= engine_kl(logits, num_layers) + 1e-5


@pytest.mark.parametrize('codec', CODECS)
@pytest.mark.parametrize('num_tokens', [1, 100, 128, 200])
def test_the_bound_at_a_token_holds_for_it(codec: str, num_tokens: int) -> None:
    kv = np.random.default_rng(2).normal(size=(2, 2, 2, num_tokens, 8)).astype(np.float32)
    kv[:, :, :, 0] *= 50
    scratch, codec_id = Scratch(), codec_named(codec)
    payload = encode_chunk(kv, codec_id, 'lz4', scratch)
    out = np.empty_like(kv)
    spec = KVSpec(num_layers=2, num_kv_heads=2, head_dim=8, max_tokens=512)
    decode_chunk(
        payload,
        spec=spec,
        num_tokens=num_tokens,
        codec=codec_id,
        out=out,
        scratch=Scratch(),
        source=Path('x'),
    )
    tokens = np.unique(np.linspace(0, num_tokens - 1, 7).astype(np.int64))
    bound = bound_at(
        payload,
        out[:, :, :, tokens],
        spec=spec,
        num_tokens=num_tokens,
        codec=codec_id,
        tokens=tokens,
    )
    assert (np.abs(out - kv)[:, :, :, tokens] <= bound * 1.01).all()
    whole = error_bound(kv, codec_id)[:, :, :, tokens // 128]
    room = np.abs(out)[:, :, :, tokens] * 2**-8
    assert (bound <= whole * 1.1 + room + 1e-6).all()
