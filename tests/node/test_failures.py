# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How often the engine hung: counted within a boot and ten minutes, whatever the file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st

from cwm_ros.node import failures as module
from cwm_ros.node.failures import Failures, MAX_FAILURES, WITHIN_S

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_third_within_ten_minutes_is_a_problem(tmp_path: Path) -> None:
    for number in range(1, MAX_FAILURES + 1):
        assert not Failures(tmp_path).problem()
        Failures(tmp_path).note()
        assert Failures(tmp_path).recent() == number

    assert 'hung 3 times' in Failures(tmp_path).problem()


def test_old_ones_and_those_of_another_boot_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 5000.0
    monkeypatch.setattr(module.time, 'clock_gettime', lambda _clock: now_s)
    Failures(tmp_path).note()
    now_s += WITHIN_S - 1
    Failures(tmp_path).note()
    assert Failures(tmp_path).recent() == 2
    now_s += 2
    assert Failures(tmp_path).recent() == 1
    monkeypatch.setattr(module, 'BOOT_ID', tmp_path / 'none')
    assert Failures(tmp_path).recent() == 0


def test_a_trace_is_counted_once_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = Failures(tmp_path).open_trace()
    assert file is not None
    with file:
        file.write('Timeout! in sleep')

    Failures(tmp_path).take_trace()
    Failures(tmp_path).take_trace()

    assert 'Timeout! in sleep' in caplog.text
    assert Failures(tmp_path).recent() == 1


@given(data=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_file_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / 'engine-failures').write_bytes(data)

    assert Failures(tmp_path).recent() == 0


def test_a_folder_that_cannot_be_written_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    failures = Failures(tmp_path / 'file')

    failures.note()
    failures.take_trace()

    assert failures.open_trace() is None
    assert not failures.problem()
