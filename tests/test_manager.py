# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whole stories, among them those that are cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, RuleBasedStateMachine
import numpy as np
import pytest

from cwm_ros import loaded as loaded_module
from cwm_ros.answer import Answer, Request, When
from cwm_ros.config import (
    AssistantSettings,
    CodecSettings,
    EngineSettings,
    Settings,
    StorageSettings,
    ThawSettings,
)
from cwm_ros.errors import (
    ConfigError,
    ContextFullError,
    CwmError,
    EngineError,
    ExistsError,
    InterruptedOperation,
    ModelError,
)
from cwm_ros.kv import Role, Turn
from cwm_ros.manager import Manager
from tests.fakes import (
    assert_true_kv,
    assert_verified,
    complete,
    freeze,
    HashEngine,
    ingest,
    make_window,
    NumpyKernels,
    say,
    story,
)

if TYPE_CHECKING:
    from tests.conftest import OpenManager

TINY = Path(__file__).parent / 'model' / 'golden' / 'tiny'
CHILD = Path(__file__).parent / 'talking_child.py'


def test_a_new_window_is_durable_before_anything_is_said(open_fake: OpenManager) -> None:
    manager = open_fake()
    manager.create('trip')
    (turn,) = manager.store.window('trip').turns

    assert turn.role is Role.SYSTEM
    assert turn == manager.session.turns[0]
    with pytest.raises(ExistsError):
        manager.create('trip')


def test_the_system_prompt_comes_from_the_file(open_fake: OpenManager, tmp_path: Path) -> None:
    path = tmp_path / 'prompt.txt'
    path.write_text('Ein Assistent für Fahrer.\n', encoding='utf-8')
    with open_fake(assistant={'system_prompt_file': str(path)}) as manager:
        manager.create('trip')
        complete(manager)
        assert manager.session.turns[0].text == 'Ein Assistent für Fahrer.'
        freeze(manager)
    with open_fake() as manager:
        thaw = manager.open_window('trip')
        complete(manager)
        assert manager.session.turns[0].text == 'Ein Assistent für Fahrer.', 'its own stays'
        assert thaw.progress().recomputed_tokens == 0


@pytest.mark.parametrize('content', [None, b'\xff\xfe'])
def test_a_system_prompt_that_cannot_be_read_is_named(
    open_fake: OpenManager, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / 'prompt.txt'
    if content is not None:
        path.write_bytes(content)
    with open_fake(assistant={'system_prompt_file': str(path)}) as manager:
        with pytest.raises(ConfigError, match=r'system_prompt_file .*prompt\.txt'):
            manager.create('trip')
        assert not manager.store.has_window('trip')


def test_without_a_window_there_is_nothing_to_say(open_fake: OpenManager) -> None:
    with pytest.raises(EngineError, match='no window is open'):
        list(open_fake().say(Request(text='Hello')))


def test_both_turns_are_durable_before_the_answer_is_given(open_fake: OpenManager) -> None:
    manager = open_fake()
    manager.create('trip')
    for event in manager.say(Request(text='Hello')):
        turns = manager.store.window('trip').turns
        assert turns[1].text == 'Hello'
        if isinstance(event, Answer):
            assert [turn.text for turn in turns[1:]] == ['Hello', event.text]
            assert turns[1].time_ms == 1_700_000_000_000


def test_a_prompt_that_does_not_fit_changes_nothing(open_fake: OpenManager) -> None:
    with open_fake(engine={'context_tokens': 400}) as manager:
        manager.create('trip')
        session = manager.session
        room = 400 - session.num_tokens
        before = session.tokens.tolist()
        for letters in (room - 5, room - 3, 1000):
            # The prompt alone, its answer's beginning, or both do not fit.
            with pytest.raises(ContextFullError):
                say(manager, 'x' * letters)
            assert session.tokens.tolist() == before
            assert len(manager.store.window('trip').turns) == len(session.turns) == 1
        answer = say(manager, 'x' * (room - 6))

        assert answer.new_tokens <= 1
        assert session.num_tokens <= 400
        assert list(manager.store.window('trip').turns) == session.turns


def test_a_prompt_without_an_answer_does_not_stop_the_conversation(
    open_fake: OpenManager, strict_template: str
) -> None:
    """Power went after the prompt was committed; many templates insist on turns to alternate."""
    with open_fake(engine={'model': strict_template}) as manager:
        manager.create('trip')
        manager.store.commit_turns('trip', [Turn(role=Role.USER, text='Is anyone there?')])
    with open_fake(engine={'model': strict_template}) as manager:
        manager.open_window('trip')
        say(manager, 'Hello?')
        texts = [turn.text for turn in manager.session.turns]

        assert texts[1:4] == ['Is anyone there?', '', 'Hello?']
        assert list(manager.store.window('trip').turns) == manager.session.turns
        complete(manager)
        assert_true_kv(manager.session)
        freeze(manager)
    with open_fake(engine={'model': strict_template}) as manager:
        manager.open_window('trip')
        complete(manager)
        assert_true_kv(manager.session)


def test_a_turn_that_the_template_refuses_changes_nothing(
    open_fake: OpenManager, strict_template: str
) -> None:
    with open_fake(engine={'model': strict_template}) as manager:
        manager.create('trip')
        with pytest.raises(ModelError, match='alternate'):
            manager.add_turns([Turn(role=Role.ASSISTANT, text='I begin')])

        assert len(manager.session.turns) == len(manager.store.window('trip').turns) == 1


def test_an_answer_is_repeated_by_its_seed(open_tiny: OpenManager) -> None:
    manager = open_tiny()
    make_window(manager, 'trip', 2)
    texts = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        manager.store.clone_window('trip', name)
        manager.open_window(name)
        request = Request(text='Go', when=When.COMPLETE, temperature=1.0, seed=seed)
        *_, answer = manager.say(request)
        assert isinstance(answer, Answer)
        texts.append(answer.text)

    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize('tags', [['x' * 257], ['\udc80'], [str(n) for n in range(300)]])
def test_tags_that_cannot_be_stored_spoil_no_later_freeze(
    open_fake: OpenManager, tags: list[str]
) -> None:
    manager = open_fake()
    manager.create('w')
    manager.add_tags(['trip'])
    with pytest.raises(ConfigError, match='tags'):
        manager.add_tags(tags)

    assert list(manager.freeze())[-1].is_committed
    assert manager.live.tags == ('trip',)


def test_tags_and_pins_survive_a_freeze(open_fake: OpenManager) -> None:
    manager = open_fake()
    make_window(manager, 'trip', 2)
    manifest = manager.store.window('trip').manifest
    assert manifest is not None
    manager.store.commit_window(replace(manifest, tags=('holiday',)))
    manager.open_window('trip')
    complete(manager)
    freeze(manager)
    after = manager.store.window('trip').manifest

    assert after is not None
    assert after.tags == ('holiday',)


# --- the reference model ------------------------------------------------------------------------


@pytest.mark.parametrize('codec', ['raw', 'int8'])
def test_the_reference_model_says_the_same_after_a_thaw(
    open_tiny: OpenManager, codec: str
) -> None:
    choice = {
        'codec': {'kind': codec, 'chunk_tokens': 256, 'compression': 'lz4'},
        'engine': {'model': 'reference', 'prefill_slice': 256},
    }
    prompts = ('What is my favourite song?', 'What did I tell you about the dog?')
    with open_tiny(**choice) as manager:
        manager.create('trip')
        for index in range(12):
            manager.add_turns(
                [
                    Turn(role=Role.USER, text=f'My dog number {index} is called Rex {index}.'),
                    Turn(role=Role.ASSISTANT, text='I will remember that.'),
                ]
            )
        complete(manager)
        freeze(manager)
        for name in 'ab':
            manager.store.clone_window('trip', name)
        expected = [say(manager, prompt, max_tokens=16).text for prompt in prompts]
    with open_tiny(**choice) as manager:
        manager.open_window('a')
        found = [say(manager, prompt, When.COMPLETE, max_tokens=16).text for prompt in prompts]
        assert found == expected

        manager.open_window('b')
        early = say(manager, prompts[0], When.USABLE, max_tokens=16)
        complete(manager)
        assert early.text
        assert list(manager.session.provisional) == []


# --- any order of events ------------------------------------------------------------------------


class Conversations(RuleBasedStateMachine):
    """
    Windows through freezes, kills and damage, against a list of committed turns.

    A kill is a process that forgets: engine and store are dropped without being closed.
    """

    names = st.sampled_from(['home', 'trip'])

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        self.settings = Settings(
            storage=StorageSettings(root=root / 's', free_floor_mib=0, lock_timeout_s=0.0),
            codec=CodecSettings(kind='raw', chunk_tokens=128, compression='none'),
            thaw=ThawSettings(first_tokens=100, last_tokens=150, relevant_chunks=1, io_threads=2),
            engine=EngineSettings(model=str(TINY), cache_dir=str(root / 'c')),
            assistant=AssistantSettings(max_tokens=12),
        )
        self.turns: dict[str, list[Turn]] = {}
        self.seed = 0
        self.manager = Manager(self.settings, wall_ms=lambda: 5)

    def teardown(self) -> None:
        self.manager.close()
        self.folder.cleanup()

    def note(self) -> None:
        """Remember the turns of the live window as committed."""
        self.turns[self.live] = list(self.manager.store.window(self.live).turns)

    @property
    def live(self) -> str:
        return self.manager.window

    @rule(name=names)
    def open_or_create(self, name: str) -> None:
        if name in self.turns:
            self.manager.open_window(name)
            session = self.manager.session
            assert session.turns_from(session.first_turn) == self.turns[name][session.first_turn :]
        else:
            self.manager.create(name)
            self.note()

    @precondition(lambda self: self.live)
    @rule(letters=st.integers(0, 300), when=st.sampled_from(When))
    def speak(self, letters: int, when: When) -> None:
        self.seed += 1
        text = story(letters, self.seed)
        answer = say(self.manager, text, when)
        assert self.manager.session.turns[-2].text == text
        assert self.manager.session.turns[-1].text == answer.text
        assert self.manager.session.num_turns == len(self.turns[self.live]) + 2
        before = self.turns[self.live]
        self.note()
        assert self.turns[self.live][:-2] == before

    @precondition(lambda self: self.live)
    @rule(steps=st.integers(0, 6))
    def speak_and_be_interrupted(self, steps: int) -> None:
        self.seed += 1
        events = self.manager.say(Request(text=story(40, self.seed)))
        for _ in range(steps):
            next(events, None)
        events.close()
        assert self.manager.session.num_turns >= len(self.turns[self.live])
        self.note()

    @precondition(lambda self: self.live)
    @rule(count=st.integers(1, 4))
    def listen(self, count: int) -> None:
        self.seed += 1
        ingest(self.manager, count, letters=150, seed=self.seed)
        self.note()

    @precondition(lambda self: self.live)
    @rule()
    def save(self) -> None:
        freeze(self.manager)

    @precondition(lambda self: self.live)
    @rule(steps=st.integers(1, 4))
    def save_partly(self, steps: int) -> None:
        progress = self.manager.freeze()
        for _ in range(steps):
            next(progress, None)
        progress.close()

    @precondition(lambda self: self.manager.thaw is not None)
    @rule(steps=st.integers(1, 5))
    def thaw_partly(self, steps: int) -> None:
        assert self.manager.thaw is not None
        for _ in range(steps):
            self.manager.thaw.advance(wait=True)

    @precondition(lambda self: self.live)
    @rule()
    def catch_up(self) -> None:
        complete(self.manager)
        assert list(self.manager.session.unsound()) == []

    @rule()
    def leave(self) -> None:
        self.manager.leave()

    @rule()
    def kill(self) -> None:
        if self.manager.thaw is not None:
            self.manager.thaw.close()  # threads of a killed process end, too
        self.manager.store._state.is_dirty = False
        self.manager.store._records = {}  # it must not write its catalog
        self.manager.close()
        self.manager = Manager(self.settings, wall_ms=lambda: 5)

    @rule(kind=st.sampled_from(['flip', 'cut', 'remove']), number=st.integers(0, 99))
    def damage(self, kind: str, number: int) -> None:
        folder = self.settings.storage.root / 'profiles' / 'default' / 'chunks'
        paths = sorted(folder.iterdir())
        if not paths:
            return
        path = paths[number % len(paths)]
        data = bytearray(path.read_bytes())
        if kind == 'remove':
            path.unlink()
        elif kind == 'cut':
            path.write_bytes(data[: number * len(data) // 100])
        elif data:
            data[number * len(data) // 100] ^= 1
            path.write_bytes(data)

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.turns and name != self.live:
            self.manager.store.delete_window(name)
            del self.turns[name]

    @invariant()
    def what_is_committed_is_there(self) -> None:
        for name, turns in self.turns.items():
            assert list(self.manager.store.window(name).turns) == turns
        assert [info.problem for info in self.manager.store.windows() if info.problem] == []

    @invariant()
    def what_is_resident_is_true(self) -> None:
        if self.live:
            self.manager.thaw.settle() if self.manager.thaw else None
            assert_true_kv(self.manager.session)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_module, 'KernelLoader', NumpyKernels)
    monkeypatch.setattr(
        loaded_module,
        'open_engine',
        # Small enough for several segments.
        lambda graph, spec, identity, given: HashEngine(identity, capacity=1500),  # noqa: ARG005
    )


@pytest.mark.usefixtures('faked')
@pytest.mark.parametrize('num_examples', [12, pytest.param(400, marks=pytest.mark.slow)])
def test_committed_turns_are_never_lost_and_resident_kv_is_true(num_examples: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Conversations,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- interrupts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('seed', 'num_rounds'), [(0, 8), pytest.param(1, 100, marks=pytest.mark.slow)]
)
def test_an_interrupt_at_any_line_leaves_a_store_that_is_in_order(
    open_fake: OpenManager, seed: int, num_rounds: int
) -> None:
    """A trace function raises KeyboardInterrupt after so many lines of ours."""
    rng = np.random.default_rng(seed)
    with open_fake() as manager:
        make_window(manager, 'trip', 10)
    for _ in range(num_rounds):
        acknowledged: list[Turn] = []
        with open_fake() as manager:
            with _interrupt_after(int(rng.integers(1, 2500))):
                manager.open_window('trip')
                acknowledged = list(manager.store.window('trip').turns)
                say(manager, story(60, int(rng.integers(99))))
                acknowledged = list(manager.store.window('trip').turns)
                complete(manager)
                freeze(manager)
            assert_verified(manager)
            if manager.window:
                assert_true_kv(manager.session)
                freeze(manager)
                assert_verified(manager)
        with open_fake() as manager:
            manager.open_window('trip')
            assert manager.session.turns[: len(acknowledged)] == acknowledged
            complete(manager)
            assert_true_kv(manager.session)


class _interrupt_after:  # noqa: N801 - reads as a verb
    """Raise KeyboardInterrupt in this thread after a number of lines of session and stories."""

    files = (
        'session.py', 'thaw.py', 'freeze.py', 'manager.py', 'answer.py',
        'live.py', 'opening.py', 'save.py', 'talk.py', 'wanted.py',
    )  # fmt: skip

    def __init__(self, num_lines: int) -> None:
        self._left = num_lines

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.settrace(None)
        return kind is KeyboardInterrupt

    def _trace(self, frame: object, event: str, _: object) -> object:
        name = Path(frame.f_code.co_filename)  # type: ignore[attr-defined]
        if name.parent.name != 'cwm_ros' or name.name not in self.files:
            return None
        if event == 'line':
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self._trace


# --- kills --------------------------------------------------------------------------------------


def _kill_after(settings: Settings, seconds: float) -> list[str]:
    """Let a child talk and freeze, kill it, and return the prompts it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(settings.storage.root), settings.engine.cache_dir],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == 'ready\n', child.stderr.read()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    output, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    return [line.removeprefix('said ') for line in output.splitlines() if line.endswith('.')]


@pytest.mark.parametrize('num_kills', [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_loses_no_acknowledged_turn(
    open_tiny: OpenManager, settings: Settings, num_kills: int
) -> None:
    rng = np.random.default_rng(num_kills)
    said: list[str] = []
    num_said = 0
    for _ in range(num_kills):
        said += _kill_after(settings, float(rng.uniform(0, 0.4)))
        with open_tiny(engine={'context_tokens': 8192}) as manager:
            assert_verified(manager)
            if not manager.store.has_window('trip'):
                assert not said
                continue
            turns = manager.store.window('trip').turns
            prompts = [turn.text for turn in turns if turn.role is Role.USER]
            assert [text for text in prompts if text in set(said)] == said
            thaw = manager.open_window('trip')
            while not thaw.progress().is_usable:
                thaw.advance(wait=True)
            assert thaw.warnings == ()
            say(manager, 'Are you there?', max_tokens=2)
            num_said += len(said)
            if manager.session.num_tokens > 5000:
                manager.leave()
                manager.store.delete_window('trip')
                said.clear()
    assert num_said


def test_errors_of_the_manager_name_a_remedy(open_fake: OpenManager) -> None:
    manager = open_fake()
    manager.create('trip')
    for call in (
        lambda: manager.create('trip'),
        lambda: manager.open_window('absent'),
        lambda: manager.open_window('../etc'),
    ):
        with pytest.raises(CwmError) as caught:
            call()
        assert caught.value.hint
    assert not issubclass(InterruptedOperation, EngineError)
