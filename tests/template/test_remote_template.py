# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A foreign template in its process: the same renderings, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from cwm_ros.errors import ModelError
from cwm_ros.model import ChatRenderer, Checkpoint, find_model, Tokenizer
from cwm_ros.model.chat import load_template
from cwm_ros.template import remote
from cwm_ros.template.bounded import ChatTemplate
from cwm_ros.template.child import HEADER, MAX_FRAME
from cwm_ros.template.jail import AUDIT_ARCH
from cwm_ros.template.remote import open_template, RemoteTemplate
from tests.model.conftest import GOLDEN
from tests.model.published import PUBLISHED
from tests.model.test_chat import BIG, SIXTY
from tests.template.jailed_child import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

CONSTANTS = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '\ud800'}
ECHO = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}'
WITH_LIMITS = list(ATTEMPTS)[:8]
BUSY = '{% for i in range(15000) %}{% if "y" ~ i == "x" %}{% endif %}{% endfor %}'
SPIN = 'while True: pass'
ODD = ['', ' a ', '\0\n', '\ue010\ue011xY0\ue012', '\U0001f600\u200d', 'x' * 100_000, '{{ 1 }}']


def messages(*roles: str) -> list[dict[str, str]]:
    return [
        {'role': role, 'content': ODD[index % len(ODD)]}
        for index, role in enumerate(roles or ('user',))
    ]


def outcome(template: ChatTemplate | RemoteTemplate, *roles: str, is_open: bool = False) -> str:
    """Return a rendering, or how it was refused."""
    try:
        return template.render(messages(*roles), add_generation_prompt=is_open)
    except ModelError as exc:
        return f'{type(exc).__name__} {exc.is_template_lost}: {exc}'


def child_of(template: RemoteTemplate) -> psutil.Process:
    assert template._child is not None
    return psutil.Process(template._child._process.pid)


def has_ended(process: psutil.Process) -> bool:
    """Wait for another's child, which may stay a zombie."""
    limit = time.monotonic() + 20
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > limit:
                return False
            time.sleep(0.01)
    return True


@pytest.fixture
def echo() -> Iterator[RemoteTemplate]:
    template = RemoteTemplate(ECHO, CONSTANTS)
    yield template
    template.close()


def with_boot(monkeypatch: pytest.MonkeyPatch, last: str) -> RemoteTemplate:
    """Return a template whose child says that it is ready, and then does ``last``."""
    boot = (
        f'import sys; sys.path += sys.argv[1:]; from cwm_ros.template.child import *; '
        f'from cwm_ros.template import child; child._receive(); '
        f'child._send({{"is_filtered": True}}); child._receive()\n{last}'
    )
    monkeypatch.setattr(remote, 'BOOT', boot)
    return RemoteTemplate(ECHO, {})


@pytest.mark.parametrize('family', list(PUBLISHED))
def test_every_family_is_rendered_as_in_this_process(family: str) -> None:
    source = PUBLISHED[family].template
    here, there = ChatTemplate(source, CONSTANTS), RemoteTemplate(source, CONSTANTS)
    asked = ('user', 'assistant', 'user')
    refused = ('user', 'user', 'system')
    for roles in (asked, ('system', *asked), refused, asked * 20, ()):
        for is_open in (False, True):
            expected = outcome(here, *roles, is_open=is_open)
            assert outcome(there, *roles, is_open=is_open) == expected
    there.close()


@pytest.mark.parametrize(
    'source',
    [
        '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}',
        '{% import "os" as os %}',
        '{% include "/etc/passwd" %}',
        '{{ cycler.__init__.__globals__.os.popen("id").read() }}',
        '{{ messages.__class__.__mro__[1].__subclasses__() }}',
        '{% set n = namespace(x="x") %}' + SIXTY + '{% set n.x = n.x ~ n.x %}{% endfor %}',
        '{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}',
        pytest.param(
            BIG + '{% for i in range(150000) %}{% if big[1:] %}{% endif %}{% endfor %}', id='big'
        ),
        '{{ "\\N{BULLET}" ~ "%s" | round }}',
        '{{ raise_exception("\ud800") }}',
        '{{ absent.field }}',
        '{% if %}',
        pytest.param('x' * 300_000, id='long'),
    ],
)
def test_what_is_refused_is_refused_in_the_same_words(source: str) -> None:
    """Also where Jinja imports something for the first time, which no file can be opened for."""
    try:
        expected = outcome(ChatTemplate(source, CONSTANTS))
    except ModelError as exc:
        expected = f'ModelError True: {exc}'
    there = RemoteTemplate(source, CONSTANTS)

    assert expected.startswith('ModelError ')
    assert outcome(there) == expected
    assert outcome(there) == expected, 'and again'
    there.close()


def test_what_the_package_ships_runs_here_and_all_else_there() -> None:
    shipped = [*Path(find_model('reference')).glob('*.jinja'), GOLDEN / 'tiny/chat_template.jinja']
    for path in shipped:
        assert isinstance(open_template(path.read_text(), {}), ChatTemplate)
    assert isinstance(load_template(GOLDEN / 'tiny'), ChatTemplate)
    foreign = open_template(shipped[0].read_text() + ' ', {})
    assert isinstance(foreign, RemoteTemplate)
    foreign.close()


def escape(attempts: list[str], *, is_filtered: bool) -> tuple[bool, dict[str, str]]:
    given = {
        'folders': remote._import_folders(),
        'attempts': attempts,
        'is_filtered': is_filtered,
    }
    script = Path(__file__).parent / 'jailed_child.py'
    command = [sys.executable, '-I', '-S', '-B', str(script), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    told = json.loads(done.stdout)
    return told['is_filtered'], told['outcomes']


@pytest.mark.skipif(os.uname().machine not in AUDIT_ARCH, reason='no filter for this processor')
def test_even_an_escape_reaches_nothing() -> None:
    """No file, socket or process, none of the parent's, and no way back."""
    is_filtered, outcomes = escape(list(ATTEMPTS), is_filtered=True)

    assert is_filtered
    assert outcomes.pop('ask for the alarm') == 'done', 'the child is alive, and may do that'
    assert outcomes.pop('long text') == 'MemoryError'
    assert outcomes.pop('much memory') == 'OSError'
    assert outcomes.pop('lift a limit') == 'ValueError', 'which is how Python says EPERM'
    others = set(ATTEMPTS) - {'ask for the alarm', 'long text', 'much memory', 'lift a limit'}
    assert outcomes == dict.fromkeys(others, 'PermissionError')


def test_limits_alone_keep_files_sockets_and_memory_away() -> None:
    is_filtered, outcomes = escape(WITH_LIMITS, is_filtered=False)

    assert not is_filtered
    assert outcomes.pop('long text') == 'MemoryError'
    assert set(outcomes.values()) == {'OSError'}


@pytest.mark.parametrize(
    ('last', 'message'),
    [
        ('import os; os._exit(3)', 'has ended'),
        ('import os; os.kill(os.getpid(), 9)', 'has ended'),
        (SPIN, 'takes too long'),
        ('sys.stdout.write("no"); sys.stdout.flush()', 'has ended'),
        ('child._send(["text"])', 'nonsense'),
        ('child._send({"text": 1})', 'nonsense'),
        ('child._send({"text": "a", "hint": "b"})', 'nonsense'),
        ('sys.stdout.buffer.write(child.HEADER.pack(2) + b"{]")', 'nonsense'),
        ('sys.stdout.buffer.write(child.HEADER.pack(child.MAX_FRAME + 1))', 'nonsense'),
        ('sys.stdout.buffer.write(child.HEADER.pack(9000) + b"[" * 9000)', 'nonsense'),
        ('sys.stdout.buffer.write(b"\\1"); sys.stdout.flush()\n' + SPIN, 'takes too long'),
    ],
)
def test_a_lost_child_fails_one_rendering_and_another_is_started(
    monkeypatch: pytest.MonkeyPatch, last: str, message: str
) -> None:
    monkeypatch.setattr(remote, 'RENDER_SECONDS', 0.3)
    template = with_boot(monkeypatch, last)
    lost = child_of(template)
    with pytest.raises(ModelError, match=message) as caught:
        template.render(messages(), add_generation_prompt=False)
    assert caught.value.is_template_lost
    assert 'try again' in caught.value.hint
    assert not lost.is_running()

    monkeypatch.undo()
    assert template.render([{'role': 'user', 'content': 'a'}], add_generation_prompt=False) == (
        '<user>a'
    )
    template.close()


def test_a_child_that_died_meanwhile_fails_no_rendering(echo: RemoteTemplate) -> None:
    expected = outcome(echo)
    lost = child_of(echo)
    lost.kill()
    lost.wait()

    assert outcome(echo) == expected
    assert child_of(echo).pid != lost.pid


def test_a_child_killed_while_it_renders_is_told() -> None:
    """The template spends its whole budget, again and again, until the kill hits the middle."""
    busy = RemoteTemplate(BUSY, {})
    busy.render([], add_generation_prompt=False)
    child = child_of(busy)
    with ThreadPoolExecutor(1) as pool:
        rendering = pool.submit(busy.render, [], add_generation_prompt=False)
        used = child.cpu_times().user
        while child.cpu_times().user == used and not rendering.done():
            time.sleep(0.001)
        child.send_signal(signal.SIGSTOP)
        assert not rendering.done()
        child.kill()
        with pytest.raises(ModelError, match='has ended'):
            rendering.result()
    busy.close()


def test_threads_take_turns(echo: RemoteTemplate) -> None:
    def ask(number: int) -> bool:
        said = [{'role': 'user', 'content': f'{number}' * number}]
        text = echo.render(said, add_generation_prompt=False)
        return text == '<user>' + said[0]['content']

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_fork_has_a_child_of_its_own(echo: RemoteTemplate) -> None:
    expected = outcome(echo)
    first = child_of(echo)
    forked = os.fork()
    if not forked:
        is_right = outcome(echo) == expected and child_of(echo).pid != first.pid
        echo.close()
        os._exit(not is_right)
    _, status = os.waitpid(forked, 0)

    assert status == 0
    assert first.is_running()
    assert outcome(echo) == expected
    assert child_of(echo).pid == first.pid


def test_a_conversation_that_is_too_long_for_the_line_is_refused(echo: RemoteTemplate) -> None:
    long = [{'role': 'user', 'content': ' ' * MAX_FRAME}]
    with pytest.raises(ModelError, match=f'more than {MAX_FRAME} bytes'):
        echo.render(long, add_generation_prompt=False)
    fits = [{'role': 'user', 'content': ' ' * (MAX_FRAME // 4)}]
    assert len(echo.render(fits, add_generation_prompt=False)) == len('<user>') + MAX_FRAME // 4
    assert HEADER.size == 4


def test_no_interpreter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'executable', '/absent/python')
    with pytest.raises(ModelError, match='no process for the chat template'):
        RemoteTemplate(ECHO, {})


def test_a_lost_child_is_no_habit_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a slow start would silently decide how a model is spoken to, and where it stops."""
    tokenizer = Tokenizer(GOLDEN / 'tiny')
    template = with_boot(monkeypatch, '')
    with pytest.raises(ModelError, match='has ended'):
        ChatRenderer(tokenizer, template)
    template.close()
    monkeypatch.undo()
    chat = ChatRenderer(tokenizer, RemoteTemplate(ECHO.replace('{% e', '<|end|>{% e'), {}))
    assert chat.end_ids() == {tokenizer.markers['<|end|>'].token}
    broken = with_boot(monkeypatch, '')
    monkeypatch.setattr(chat, '_template', broken)
    with pytest.raises(ModelError, match='has ended'):
        chat.end_ids()


def test_the_child_ends_with_the_model(tmp_path: Path) -> None:
    copy = shutil.copytree(GOLDEN / 'tiny', tmp_path / 'tiny')
    template = copy / 'chat_template.jinja'
    template.write_text(template.read_text() + '{# mine #}')
    checkpoint = Checkpoint(copy, tmp_path / 'cache')
    first = child_of(checkpoint.chat._template)  # type: ignore[arg-type]
    checkpoint.chat.close()
    assert not first.is_running()
    checkpoint.chat.closing()
    second = child_of(checkpoint.chat._template)  # type: ignore[arg-type]
    del checkpoint
    assert not second.is_running()


@pytest.mark.parametrize('doing', ['', 'idle', 'renders'])
def test_the_child_ends_with_a_parent_that_is_killed(doing: str) -> None:
    """While it starts, waits or renders."""
    code = (
        'import sys, threading\n'
        'from cwm_ros.template.remote import RemoteTemplate\n'
        f't = RemoteTemplate({BUSY!r}, {{}})\n'
        f'doing = {doing!r}\n'
        'if doing: t.render([], add_generation_prompt=False)\n'
        'print(t._child._process.pid, flush=True)\n'
        'while doing == "renders": t.render([], add_generation_prompt=False)\n'
        'threading.Event().wait()\n'
    )
    command = [sys.executable, '-c', code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert has_ended(child)
