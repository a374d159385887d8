# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files and example packages, installed by colcon and started by `ros2 launch`."""

from __future__ import annotations

from contextlib import contextmanager, suppress
import os
from pathlib import Path
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from std_msgs.msg import String

from cwm_interfaces.msg import ResponseEvent, Usability, WindowInfoArray
from cwm_interfaces.srv import ListWindows
from tests.ros.vehicle import Client, LATCHED, ROOT, STREAM, WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(shutil.which('colcon') is None, reason='colcon is not there'),
]

FACT, QUESTION, CODE = 'My gate code is 4821.', "What's the code for the gate?", '4821'
LOOK_S = 0.1
INTERFACES = 'cwm_ros/cwm_interfaces'


def colcon(*args: str, cwd: Path) -> str:
    """Run colcon without the interpreter's environment of the tests."""
    done = subprocess.run(
        ['colcon', *args], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ordinary workspace as the README makes it; messages come from the underlay."""
    found = tmp_path_factory.mktemp('workspace')
    source = found / 'src'
    source.mkdir()
    (source / 'cwm_ros').symlink_to(ROOT)
    (source / 'cwm_interfaces').symlink_to(INTERFACES)
    (source / 'cabin_assistant').symlink_to('cwm_ros/examples/cabin_assistant')
    colcon('build', '--packages-skip', 'cwm_interfaces', cwd=found)
    return found


class Launched:
    """A launch that runs, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(encoding='utf-8', errors='replace')

    def node(self, other_than: int = 0) -> psutil.Process:
        """Return the node's process, once there is one."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):  # a zombie, mostly
                    is_node = any(part.endswith('/cwm_node') for part in child.cmdline())
                    if is_node and child.pid != other_than:
                        return child
            time.sleep(LOOK_S)
        raise AssertionError(f'the node does not run: {self.output}')

    def interrupt(self) -> int:
        """End it as a terminal does, where somebody is impatient."""
        os.killpg(self.process.pid, signal.SIGINT)
        time.sleep(LOOK_S)
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(WAIT_S)


@pytest.fixture
def environment(workspace: Path, tmp_path: Path, engine_cache: Path) -> dict[str, str]:
    """Return what a shell has after sourcing the workspace."""
    script = f'source {workspace}/install/local_setup.bash && env -0'
    told = subprocess.run(['/bin/bash', '-c', script], capture_output=True, check=True).stdout
    found = dict(item.split('=', 1) for item in told.decode().split('\0') if item)
    libraries = Path(np.__file__).parents[1]
    paths = [p for p in found['PYTHONPATH'].split(':') if p and Path(p).resolve() != ROOT]
    return {
        **found,
        'PYTHONPATH': ':'.join([*paths, str(libraries)]),
        'CWM_STORE': str(tmp_path / 'store'),
        'XDG_CACHE_HOME': str(engine_cache),
        'ROS_LOG_DIR': str(tmp_path / 'log'),
        'PYTHONUNBUFFERED': '1',
    }


@contextmanager
def launched(
    environment: dict[str, str], tmp_path: Path, file: str, *args: str, package: str = 'cwm_ros'
) -> Iterator[Launched]:
    log = tmp_path / f'{file}.txt'
    with log.open('wb') as output:
        process = subprocess.Popen(
            ['ros2', 'launch', package, file, *args],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Launched(process, log)
    finally:
        everybody = [process.pid] if process.poll() is None else []
        everybody = [*(c.pid for c in children(process.pid)), *everybody]
        for pid in everybody:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ('folder', 'args'),
    [('.', ['--base-paths', '.', 'cwm_interfaces']), ('workspace', ['--base-paths', 'src'])],
)
def test_the_commands_of_the_readme_find_both_packages(
    workspace: Path, folder: str, args: list[str], tmp_path: Path
) -> None:
    where = ROOT if folder == '.' else workspace
    log = ['--log-base', str(tmp_path)]

    names = colcon(*log, 'list', '--names-only', *args, cwd=where).split()

    assert {'cwm_interfaces', 'cwm_ros'} <= set(names)


def test_it_starts_comes_back_after_a_kill_and_ends_in_order(
    environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ('namespace:=car', 'name:=memory', 'profile:=anna', 'prompt:=/heard')
    with (
        launched(environment, tmp_path, 'cwm.launch.py', *arguments) as running,
        Client('/car/memory') as client,
    ):
        client.meet()
        client.wait_state(Usability.NO_WINDOW)
        client.publish(String, '/heard', String(data=FACT))
        client.wait_for('response_events', lambda m: m.kind == ResponseEvent.END)
        first = running.node().pid
        os.kill(first, signal.SIGKILL)

        assert running.node(other_than=first).pid != first
        client.forget('usability')
        client.meet()
        client.wait_state(Usability.NO_WINDOW)
        client.forget('response_events')
        client.publish(String, '/heard', String(data=QUESTION))
        said = client.wait_for('response_events', lambda m: m.kind == ResponseEvent.END)
        assert CODE in said.text

        last = running.node()
        running.interrupt()
        assert not last.is_running()
        saved = running.output.index("saved=('assistant',)")
        assert saved < running.output.rindex('process has finished cleanly')
        assert 'starts again in 1 s' in running.output
        assert 'Traceback' not in running.output


def test_who_dies_too_often_comes_back_without_a_model(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with (
        launched(environment, tmp_path, 'cwm.launch.py', 'max_failures:=1') as running,
        Client() as client,
    ):
        client.meet()
        client.wait_state(Usability.NO_WINDOW)
        client.ask(FACT)
        first = running.node().pid
        os.kill(first, signal.SIGKILL)
        second = running.node(other_than=first).pid
        client.forget('usability')
        client.meet()

        assert 'died 1 times' in client.wait_state(Usability.STORE_ONLY).reason
        listed = client.call(ListWindows, 'list_windows')
        assert [window.name for window in listed.windows] == ['assistant']
        os.kill(second, signal.SIGKILL)
        assert running.process.wait(WAIT_S) is not None
        assert 'dies even without a model' in running.output


def test_a_bench_drives_two_ignition_cycles(environment: dict[str, str], tmp_path: Path) -> None:
    with (
        Client() as client,
        launched(environment, tmp_path, 'hil.launch.py', 'cycles:=2') as running,
    ):
        client.watch(WindowInfoArray, 'windows', LATCHED)

        assert running.process.wait(2 * WAIT_S) == 0, running.output
        assert 'cycle 2 of 2 is done' in running.output
        assert "saved=('assistant',)" in running.output
        revisions = {w.revision for array in client.seen('windows') for w in array.windows}
        assert len(revisions) >= 3, revisions  # begun, and saved at least twice


def test_a_bench_says_what_it_missed(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / 'cycle.yaml'
    script.write_text("- {ignition: 'ON', seconds: 0.2}\n- {expect: 'never said', seconds: 0.5}\n")

    with launched(environment, tmp_path, 'hil.launch.py', f'script:={script}') as running:
        assert running.process.wait(WAIT_S) == 1
        assert 'cycle 1, step 2 missed' in running.output
        assert 'process has died' in running.output


def test_an_assistant_can_be_talked_with(environment: dict[str, str], tmp_path: Path) -> None:
    with (
        launched(
            environment, tmp_path, 'voice_assistant.launch.py', 'microphone:=none'
        ) as running,
        Client() as client,
    ):
        client.meet()
        client.wait_state(Usability.NO_WINDOW)
        typing = ['keyboard_microphone', '--ros-args', '-r', 'prompt:=cwm/prompt']
        with subprocess.Popen(
            ['ros2', 'run', 'cwm_ros', *typing],
            env=environment,
            stdin=subprocess.PIPE,
            start_new_session=True,
        ) as keyboard:
            assert keyboard.stdin is not None
            until_s = time.monotonic() + WAIT_S
            # What is typed before the other side is discovered is lost, as ever in ROS 2.
            while CODE not in running.output and time.monotonic() < until_s:
                keyboard.stdin.write(f'{FACT}\n'.encode())
                keyboard.stdin.flush()
                time.sleep(20 * LOOK_S)
            os.killpg(keyboard.pid, signal.SIGKILL)
        assert CODE in running.output
        running.interrupt()


def test_the_example_of_the_integration_page_speaks(
    environment: dict[str, str], tmp_path: Path
) -> None:
    cabin = {'package': 'cabin_assistant'}
    with (
        Client() as client,
        launched(environment, tmp_path, 'cabin.launch.py', **cabin) as running,
    ):
        client.watch(String, '/speak', STREAM)
        client.wait_state(Usability.NO_WINDOW)
        client.publish(String, '/heard', String(data=FACT))
        client.wait_for('/speak', lambda m: CODE in m.data)
        client.forget('/speak')
        os.kill(running.node().pid, signal.SIGKILL)
        client.forget('usability')
        client.wait_state(Usability.NO_WINDOW)
        client.meet()
        client.publish(String, '/heard', String(data=QUESTION))
        client.wait_for('/speak', lambda m: CODE in m.data)
        running.interrupt()


@pytest.mark.parametrize(
    ('executable', 'package'),
    [
        ('stt_microphone', 'whisper_msgs'),
        ('live_speech_microphone', 'hri_msgs'),
        ('tts_speaker', 'audio_common_msgs'),
    ],
)
def test_an_adapter_without_its_messages_says_which(
    environment: dict[str, str], executable: str, package: str
) -> None:
    done = subprocess.run(
        ['ros2', 'run', 'cwm_ros', executable, '--ros-args', '-p', 'package:=absent_msgs'],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    wanted = package if package == 'hri_msgs' else 'absent_msgs'
    assert f'{wanted}/' in done.stderr
    assert 'source its workspace' in done.stderr
    assert done.returncode == 1


def test_a_configuration_that_is_not_there_is_named(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with launched(environment, tmp_path, 'cwm.launch.py', 'config:=jetson_nano') as running:
        assert running.process.wait(WAIT_S) == 1
        assert 'config:=jetson_nano is no file, and none of cpu, default' in running.output
