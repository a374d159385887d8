# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scripts of the simulated vehicle."""

from __future__ import annotations

from pathlib import Path

import pytest

from cwm_ros.errors import ConfigError
from cwm_ros.examples.drive import read_drive, Step

SCRIPT = Path(__file__).parents[1] / 'launch' / 'hil_cycles.yaml'


def test_the_script_that_comes_with_the_package_is_a_cycle() -> None:
    steps = read_drive(SCRIPT)

    assert [step.ignition for step in steps if step.ignition] == ['ACC', 'START', 'ON', 'OFF']
    assert [step.expect for step in steps if step.say] == ['4821', '4821']
    assert steps[-1].cut_s == 10
    assert [step.is_waiting for step in steps] == [False, False, False, True, True, True, False]


def test_what_is_left_out_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / 'cycle.yaml'
    path.write_text('- {seconds: 2}\n- {charge: 0.5, charging: true}\n')

    assert read_drive(path) == (Step(seconds=2), Step(charge=0.5, charging=True))


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('', 'is not a list of steps'),
        ('[]', 'is not a list of steps'),
        ('a: [', 'cannot be read'),
        ('- 1', 'step 1 is not a mapping'),
        ('- {seconds: 1}\n- {second: 1}', "step 2: 'second' is unknown"),
        ('- {ignition: ON}', 'step 1: ignition is True'),
        ("- {ignition: 'RUN'}", "step 1: ignition is 'RUN'"),
        ('- {charge: 1.5}', 'step 1: charge is 1.5'),
        ('- {charge: full}', "step 1: charge is 'full'"),
        ('- {seconds: -1}', 'step 1: seconds is -1'),
        ('- {seconds: .nan}', 'step 1: seconds is nan'),
        ('- {cut_s: .inf, ignition: OFF}', 'step 1: ignition is False'),
        ('- {cut_s: .inf}', 'step 1: cut_s is inf'),
        ('- {say: 4821}', 'step 1: say is 4821'),
        ('- {usable: 1}', 'step 1: usable is 1'),
    ],
)
def test_what_is_no_script_is_refused_by_step_and_name(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / 'cycle.yaml'
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_drive(path)
    assert str(path) in caught.value.message
    assert problem in caught.value.message
    assert caught.value.hint


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='cannot be read'):
        read_drive(tmp_path / 'absent.yaml')
