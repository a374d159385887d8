# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw again: what comes back is what was said, whatever happened to the files."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cwm_ros.answer import Request, When
from cwm_ros.engine import LogitRows
from cwm_ros.errors import BusyError, NotFoundError, QuotaError, ReadOnlyError
from cwm_ros.kv import Role, Turn
from tests.fakes import (
    assert_true_kv,
    assert_verified,
    chunk_files,
    complete,
    freeze,
    HashEngine,
    ingest,
    make_window,
    say,
    story,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cwm_ros.config import Settings
    from cwm_ros.kv import FloatArray
    from cwm_ros.manager import Manager
    from tests.conftest import OpenManager

CHUNK = 128


def next_logits(manager: Manager) -> FloatArray:
    session = manager.session
    start = session.num_tokens
    manager.add_turns([Turn(role=Role.USER, text='What did I say?')])
    return session.compute(start, session.num_tokens, LogitRows.ALL)


def chunk_paths(manager: Manager, window: str) -> list[Path]:
    """Return the chunk files of a window, by position."""
    manifest = manager.store.window(window).manifest
    assert manifest is not None
    return [manager.store.chunk_path(entry.id, entry.codec) for entry in manifest.chunks]


def flip_payload(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 64
    path.write_bytes(data)


def flip_head(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def evict(path: Path) -> None:
    path.unlink()


def make_foreign(path: Path) -> None:
    """Put another chunk's content there."""
    other = next(p for p in sorted(path.parent.iterdir()) if p.name != path.name)
    path.write_bytes(other.read_bytes())


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    target = path.with_name('elsewhere')
    path.rename(target)
    path.symlink_to(target)


DAMAGES = [flip_payload, flip_head, truncate, empty, evict, make_foreign, make_link]


def test_raw_chunks_bring_back_a_session_bit_for_bit(open_tiny: OpenManager) -> None:
    with open_tiny() as manager:
        make_window(manager, 'trip')
        expected = next_logits(manager)
        tokens = manager.session.tokens.copy()
    with open_tiny() as manager:
        manager.open_window('trip')
        manager.store.commit_turns('trip', [])
        complete(manager)
        # The question was committed before the end of the first session.
        assert manager.session.tokens.tolist() == tokens.tolist()
        assert str(manager.session.fidelity) == 'EXACT'
        start = manager.session.turn_stops[-2]
        again = manager.session.compute(start, manager.session.num_tokens, LogitRows.ALL)

        assert manager.thaw is not None
        assert manager.thaw.progress().reused_tokens == start
        assert manager.thaw.progress().recomputed_tokens == 0
        np.testing.assert_array_equal(again, expected)


def test_the_answer_after_a_thaw_is_the_one_before(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
        manager.store.clone_window('trip', 'twin')
        expected = say(manager, 'Where were we?', When.COMPLETE).text
    with open_fake() as manager:
        manager.open_window('twin')

        assert say(manager, 'Where were we?', When.COMPLETE).text == expected
        assert_true_kv(manager.session)


def test_int8_keeps_the_next_logits_close(open_tiny: OpenManager) -> None:
    with open_tiny(codec={'kind': 'int8', 'compression': 'lz4'}) as manager:
        make_window(manager, 'trip')
        manager.store.clone_window('trip', 'twin')
        expected = next_logits(manager)
    with open_tiny(codec={'kind': 'int8'}) as manager:
        manager.open_window('twin')
        complete(manager)
        found = next_logits(manager)

        assert str(manager.session.fidelity) == 'LOSSY(int8)'
        error = np.abs(found - expected).max()
        assert 0 < error < 0.02 * np.abs(expected).max()
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_freezing_again_writes_nothing(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip')
    before = chunk_files(manager)
    progress = freeze(manager)

    assert progress.bytes_written == 0
    assert progress.chunks_reused == progress.chunks_done == progress.chunks_total == len(before)
    assert chunk_files(manager) == before


def test_a_freeze_writes_only_what_is_new(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip', 6)
    before = chunk_files(manager)
    num_full = manager.session.num_tokens // CHUNK
    ingest(manager, 2, seed=5)
    complete(manager)
    progress = freeze(manager)
    after = chunk_files(manager)
    new = after.keys() - before.keys()
    kept = after.keys() & before.keys()

    assert len(kept) == num_full
    assert len(before) - len(kept) == 1, 'the short tail is replaced'
    assert all(after[name] == before[name] for name in kept)
    assert progress.chunks_reused == num_full
    folder = manager.settings.storage.root / 'profiles' / 'default' / 'chunks'
    assert progress.bytes_written == sum((folder / name).stat().st_size for name in new)
    assert_verified(manager)


def test_a_clone_and_a_thawed_window_share_their_chunks(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip')
        before = chunk_files(manager)
        manager.store.clone_window('trip', 'twin')
    with open_fake() as manager:
        manager.open_window('twin')
        complete(manager)

        assert freeze(manager).bytes_written == 0
        assert chunk_files(manager) == before


def test_provisional_kv_is_not_written(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
        stored = chunk_files(manager)
        chunk_paths(manager, 'trip')[4].unlink()
    with open_fake() as manager:
        manager.open_window('trip')
        answer = say(manager, story(300, 77), When.NOW)
        assert answer.is_provisional
        assert list(manager.session.provisional)
        progress = freeze(manager)

        assert progress.chunks_done < progress.chunks_total
        assert chunk_files(manager).keys() <= stored.keys()
        manifest = manager.store.window('trip').manifest
        assert manifest is not None
        provisional = manager.session.provisional
        for entry in manifest.chunks:
            assert not list(provisional.overlap(entry.start, entry.stop))
        assert manifest.provisional == tuple(provisional)

        complete(manager)
        freeze(manager)
        assert_true_kv(manager.session)
        assert_verified(manager)
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)
        assert_true_kv(manager.session)


def test_a_short_chunk_is_computed_afresh_before_a_full_one_is_made_of_it(
    open_tiny: OpenManager,
) -> None:
    """With a lossy codec: nothing is encoded with loss twice."""
    with open_tiny(codec={'kind': 'int8'}) as manager:
        manager.create('trip')
        ingest(manager, 5)
        complete(manager)
        exact = manager.session.engine.export_kv(0, manager.session.num_tokens).kv.copy()
        freeze(manager)
        tail = manager.session.num_tokens // CHUNK * CHUNK
        assert tail < manager.session.num_tokens
    with open_tiny(codec={'kind': 'int8'}) as manager:
        manager.open_window('trip')
        complete(manager)
        engine, stop = manager.session.engine, exact.shape[3]
        lossy = engine.export_kv(tail, stop).kv.copy()
        assert np.abs(lossy - exact[:, :, :, tail:]).max() > 1e-4
        assert list(manager.session.bridged) == [(tail, stop)]
        ingest(manager, 2, seed=3)
        complete(manager)
        freeze(manager)
        afresh = engine.export_kv(tail, stop).kv

        assert list(manager.session.bridged) == []
        # Layer 0 depends on the tokens only, deeper ones also on decoded KV before them.
        np.testing.assert_allclose(afresh[0], exact[0, :, :, tail:], atol=1e-6)
        assert np.abs(afresh - lossy).max() > 1e-4


def test_a_short_chunk_that_vanished_is_not_written_from_over_a_hole(
    open_fake: OpenManager,
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
        paths = chunk_paths(manager, 'trip')
    with open_fake(thaw={'io_threads': 1}) as manager:
        thaw = manager.open_window('trip')
        while not thaw.progress().is_usable:
            thaw.advance(wait=True)
        thaw.close()
        assert not thaw.is_complete
        paths[-1].unlink()
        freeze(manager)

        assert not paths[-1].exists()
        assert_true_kv(manager.session)
        assert_verified(manager)


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('place', [0, 4, -1])
def test_a_damaged_chunk_is_computed_named_and_replaced(
    open_fake: OpenManager, damage: Callable[[Path], None], place: int
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
        manager.store.clone_window('trip', 'twin')
        expected = say(manager, 'Where were we?', When.COMPLETE).text
        path = chunk_paths(manager, 'twin')[place]
        good = path.read_bytes()
    damage(path)
    with open_fake() as manager:
        thaw = manager.open_window('twin')
        assert say(manager, 'Where were we?', When.COMPLETE).text == expected
        assert path.name in ''.join(thaw.warnings)
        assert len(thaw.warnings) == 1
        # Twice, if it was needed before the chunks in front of it were there.
        assert 0 < thaw.progress().recomputed_tokens <= 2 * CHUNK
        assert str(manager.session.fidelity) == 'EXACT'
        assert_true_kv(manager.session)
        manager.leave()

        # A window without the question, so that the chunk is asked for as it was.
        manager.open_window('trip')
        complete(manager)
        freeze(manager)
        if place != -1:
            assert path.read_bytes() == good
        assert_verified(manager)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.warnings == ()


def test_all_chunks_lost_and_the_conversation_is_still_there(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 12)
        manager.store.clone_window('trip', 'twin')
        expected = say(manager, 'Where were we?', When.COMPLETE).text
        for path in chunk_paths(manager, 'twin'):
            path.unlink(missing_ok=True)
    with open_fake() as manager:
        thaw = manager.open_window('twin')

        assert say(manager, 'Where were we?', When.COMPLETE).text == expected
        assert thaw.progress().reused_tokens == 0


def test_other_weights_compute_all_and_write_all(
    open_fake: OpenManager, other_weights: str
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 8)
        before, tokens = chunk_files(manager), manager.session.tokens.tolist()
    with open_fake(engine={'model': other_weights}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)

        assert manager.session.tokens.tolist() == tokens
        assert thaw.progress().reused_tokens == 0
        assert thaw.progress().recomputed_tokens >= len(tokens)
        assert_true_kv(manager.session)

        progress = freeze(manager)
        assert progress.chunks_reused == 0
        assert not before.keys() & chunk_files(manager).keys()
        assert_verified(manager)
    with open_fake(engine={'model': other_weights}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0
        assert_true_kv(manager.session)


def test_another_template_renders_the_turns_anew(
    open_fake: OpenManager, other_template: str
) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 4)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    with open_fake(engine={'model': other_template}) as manager:
        manager.open_window('trip')
        complete(manager)
        rendered = manager.checkpoint.chat.render(turns, add_generation_prompt=False).tolist()

        assert manager.session.turns == turns
        assert manager.session.tokens.tolist() == rendered != tokens
        assert_true_kv(manager.session)
        freeze(manager)
        assert_verified(manager)
    with open_fake(engine={'model': other_template}) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.progress().recomputed_tokens == 0


def test_turns_committed_after_the_last_freeze_come_back(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        make_window(manager, 'trip', 4)
        say(manager, 'And then?', When.COMPLETE)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)

        assert manager.session.turns == turns
        assert len(manager.session.tokens) == manager.session.turn_stops[-1]
        assert len(tokens) >= manager.session.num_tokens - 3
        assert_true_kv(manager.session)
        freeze(manager)
        assert_verified(manager)


def test_a_window_of_turns_only_is_computed(open_fake: OpenManager) -> None:
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 6)
        turns, tokens = list(manager.session.turns), manager.session.tokens.tolist()
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        assert not thaw.progress().is_usable
        say(manager, 'Hello?')

        assert manager.session.turns[: len(turns)] == turns
        assert manager.session.tokens[: len(tokens)].tolist() == tokens
        complete(manager)
        assert_true_kv(manager.session)


def test_a_window_without_chunks_is_computed(open_fake: OpenManager) -> None:
    """Frozen when nothing was computed: a manifest, and no chunk."""
    with open_fake() as manager:
        manager.create('trip')
        ingest(manager, 6)
        assert freeze(manager).chunks_done == 0
    with open_fake() as manager:
        manager.open_window('trip')
        complete(manager)
        assert_true_kv(manager.session)
        assert freeze(manager).chunks_done > 0
        assert_verified(manager)


def test_a_window_that_does_not_exist_leaves_the_live_one(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip')
    session = manager.session
    with pytest.raises(NotFoundError):
        manager.open_window('other')

    assert manager.session is session


def test_too_small_a_quota_names_figures_and_keeps_the_old_window(
    open_tiny: OpenManager, settings: Settings
) -> None:
    with open_tiny() as manager:
        make_window(manager, 'trip', 2)
        before = manager.store.window('trip')
    # 2 layers, 2 heads, 8 channels: 256 bytes a token. Another driver has most of the room.
    others = settings.storage.root / 'profiles' / 'other' / 'chunks'
    others.mkdir(parents=True)
    (others / 'ballast').write_bytes(bytes(3 << 20))
    with open_tiny(storage={'quota_mib': 4}) as manager:
        manager.open_window('trip')
        ingest(manager, 40)
        complete(manager)
        turns = list(manager.session.turns)
        with pytest.raises(QuotaError, match=r'\d+ bytes are used, \d+ more exceed') as caught:
            freeze(manager)
        after = manager.store.window('trip')

        assert 'quota_mib' in caught.value.hint
        assert before.manifest is not None
        assert after.manifest is not None
        # The usable part found room and is committed; nothing that was there is lost.
        kept = {entry.id for entry in after.manifest.chunks}
        assert kept >= {e.id for e in before.manifest.chunks if e.stop - e.start == 128}
        assert list(after.turns) == turns
        assert_verified(manager)
    with open_tiny(storage={'quota_mib': 100}) as manager:
        manager.open_window('trip')
        complete(manager)
        assert freeze(manager).chunks_done > 40


def test_a_second_writer_is_told_who_writes(open_fake: OpenManager) -> None:
    import os

    open_fake()
    with pytest.raises(BusyError, match=f'process {os.getpid()}'):
        open_fake()


def test_a_store_that_may_not_be_written_says_so(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a read-only mount; root passes permissions, so the device's answer is played."""
    import errno
    import os

    real = os.open

    def refuse(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    with open_fake() as manager:
        make_window(manager, 'trip', 2)
    monkeypatch.setattr(os, 'open', refuse)
    with pytest.raises(ReadOnlyError, match='Read-only file system'):
        open_fake()


@pytest.fixture
def small_device(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a device of 2 MiB."""
    folder = tmp_path / 'device'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as exc:
        pytest.skip(f'no mount command: {exc}')
    if result.returncode:
        pytest.skip(f'a file system cannot be mounted here: {result.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '--lazy', str(folder)], check=True)  # noqa: S607


def test_a_full_device_keeps_the_old_window(open_tiny: OpenManager, small_device: Path) -> None:
    storage = {'root': small_device / 'store'}
    with open_tiny(storage=storage) as manager:
        make_window(manager, 'trip', 2)
        before = manager.store.window('trip').manifest
        assert before is not None
        ingest(manager, 16)
        complete(manager)
        ballast = small_device / 'ballast'
        free = shutil.disk_usage(small_device).free
        ballast.write_bytes(bytes(free - 200_000))
        with pytest.raises(QuotaError):
            freeze(manager)
        ballast.write_bytes(bytes(free - 190_000))  # the last page, too
        turns = list(manager.session.turns)
        after = manager.store.window('trip')

        assert after.manifest is not None
        kept = {entry.id for entry in after.manifest.chunks}
        assert kept >= {e.id for e in before.chunks if e.stop - e.start == 128}
        assert list(after.turns) == turns
        assert_verified(manager)
        ballast.unlink()
        assert freeze(manager).chunks_done > len(before.chunks)
    with open_tiny(storage=storage) as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert thaw.warnings == ()
        assert manager.session.turns == turns


def test_a_device_that_fills_up_leaves_conversation_and_log_in_step(
    open_fake: OpenManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is refused whole; an answer is kept and committed with the next turn."""
    manager = open_fake()
    make_window(manager, 'trip', 2)
    real = manager.store.commit_turns
    refused: set[Role] = set()

    def commit(window: str, turns: list[Turn]) -> int:
        if any(turn.role in refused for turn in turns):
            raise QuotaError('full')
        return real(window, turns)

    monkeypatch.setattr(manager.store, 'commit_turns', commit)
    num_turns, tokens = len(manager.session.turns), manager.session.tokens.tolist()
    refused.add(Role.USER)
    with pytest.raises(QuotaError):
        say(manager, 'One?')
    with pytest.raises(QuotaError):
        ingest(manager, 3)
    assert len(manager.session.turns) == num_turns
    assert manager.session.tokens.tolist() == tokens

    refused.symmetric_difference_update(Role)
    refused.discard(Role.SYSTEM)
    with pytest.raises(QuotaError):
        say(manager, 'Two?')
    assert len(manager.session.turns) == num_turns + 2

    refused.clear()
    say(manager, 'Three?')
    assert list(manager.store.window('trip').turns) == manager.session.turns
    assert [turn.text for turn in manager.session.turns[num_turns::2]] == ['Two?', 'Three?']
    complete(manager)
    freeze(manager)
    assert_true_kv(manager.session)


def test_an_answer_that_is_not_asked_for_to_the_end_is_a_turn(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip', 2)
    events = manager.say(Request(text='Well?', max_tokens=20))
    for _ in range(3):
        next(events)
    events.close()

    assert manager.session.turns[-1].role is Role.ASSISTANT
    assert list(manager.store.window('trip').turns) == manager.session.turns
    complete(manager)
    assert_true_kv(manager.session)


def test_fakes_and_real_engines_are_told_apart(open_fake: OpenManager) -> None:
    """These tests would prove little if the model could not tell a wrong chunk."""
    manager = open_fake()
    make_window(manager, 'trip', 4)
    engine = manager.engine
    assert isinstance(engine, HashEngine)
    truth = engine.truth(manager.session.tokens)
    shifted = engine.truth(manager.session.tokens[1:])

    assert not (truth[:, :, :, 1:] == shifted).any(axis=(0, 1, 2, 4)).any()
