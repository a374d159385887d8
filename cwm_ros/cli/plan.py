# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The verb that tells what a thaw would do, without a thaw and without an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cwm_ros.cli.picture import table
from cwm_ros.cli.windows import open_store
from cwm_ros.config import STRATEGIES
from cwm_ros.model import Checkpoint
from cwm_ros.plan import Way
from cwm_ros.preview import known_rates, preview_thaw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cwm_ros.cli.app import Options
    from cwm_ros.plan import ThawStep
    from cwm_ros.rates import Rates
    from cwm_ros.schedule import ThawPlan

HEADINGS = ('tokens', 'chunks', 'way', 'kB', 'takes', 'done after', 'why')


@click.command('plan')
@click.argument('window')
@click.option('--prompt', default='', help='What would be asked; what it needs comes first.')
@click.option('--strategy', type=click.Choice(STRATEGIES), help='Default: as configured.')
@click.option('--deadline', type=float, help='Say what is there so many seconds from now.')
@click.pass_obj
def plan_command(
    options: Options, *, window: str, prompt: str, strategy: str | None, deadline: float | None
) -> None:
    """Say in which order WINDOW would come back, from where, how long it takes, and why."""
    settings = options.settings
    checkpoint = Checkpoint.configured(settings.engine)
    with open_store(options, writable=False) as store:
        plan = preview_thaw(
            store,
            checkpoint,
            settings,
            window,
            prompt=prompt,
            strategy=strategy or '',
            deadline_s=deadline,
        )
    rates = known_rates(settings, checkpoint)
    options.show(as_json(plan, rates, window), as_text(plan, rates))


def as_json(plan: ThawPlan, rates: Rates, window: str) -> dict[str, object]:
    """Return a plan for ``--json``."""
    in_time = plan.in_time()
    values: dict[str, object] = {
        'window': window,
        'usable_s': plan.usable_s,
        'answerable_s': plan.answerable_s,
        'complete_s': plan.complete_s,
        'load_s': plan.load_s,
        'compute_s': plan.compute_s,
        'repair_s': plan.repair_s,
        'rates': {
            'load_bytes_per_s': 1 / rates.load_s_per_byte if rates.can_load else None,
            'token_s': rates.token_s if rates.can_compute else None,
            'reach_s': rates.reach_s if rates.can_compute else None,
        },
        'steps': [_step_as_json(step) for step in plan.steps],
    }
    if plan.deadline_s is not None:
        values['deadline_s'] = plan.deadline_s
        values['steps_in_time'] = None if in_time is None else len(in_time)
        values['usable_in_time'] = None if in_time is None else _has_usable(plan, in_time)
    return values


def _step_as_json(step: ThawStep) -> dict[str, object]:
    return {
        'start': step.start,
        'stop': step.stop,
        'way': step.way.value,
        'bytes': step.entry.file_bytes if step.entry and step.way is Way.LOAD else 0,
        'cost_s': step.cost_s,
        'done_s': step.done_s,
        'is_usable_part': step.is_usable_part,
        'reason': step.reason,
    }


def as_text(plan: ThawPlan, rates: Rates) -> str:
    """Return a plan as a table, for people; neighbours of one kind share a line."""
    if not plan.steps:
        return 'the window has no turns yet: there is nothing to thaw'
    lines = [table(HEADINGS, [_row(group) for group in _grouped(plan.steps)]), '']
    lines.append(
        f'usable after {_ms(plan.usable_s)}, answerable after {_ms(plan.answerable_s)}, '
        f'complete after {_ms(plan.complete_s)}'
    )
    if not rates.is_known:
        lines.append(
            'this board has not shown yet how fast it '
            + ('computes' if rates.can_load else 'loads')
            + ': what can be loaded is'
        )
    if plan.deadline_s is not None:
        lines.append(_deadline_line(plan))
    return '\n'.join(lines)


def _deadline_line(plan: ThawPlan) -> str:
    assert plan.deadline_s is not None
    if plan.deadline_s <= 0:
        return 'the deadline has passed: nothing is there by then'
    in_time = plan.in_time()
    if in_time is None:
        return 'what is there at the deadline cannot be told without rates'
    usable = 'usable' if _has_usable(plan, in_time) else 'not usable'
    return f'after {_ms(plan.deadline_s)}: {len(in_time)} of {len(plan.steps)} chunks, {usable}'


def _has_usable(plan: ThawPlan, in_time: Sequence[ThawStep]) -> bool:
    return all(step in in_time for step in plan.steps if step.is_usable_part)


def _grouped(steps: Sequence[ThawStep]) -> list[list[ThawStep]]:
    """Put steps together that follow each other in the order and in the window, for one reason."""
    groups: list[list[ThawStep]] = []
    for step in steps:
        last = groups[-1][-1] if groups else None
        is_next = last is not None and (step.start == last.stop or step.stop == last.start)
        if is_next and last and (step.way, step.reason) == (last.way, last.reason):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _row(group: Sequence[ThawStep]) -> tuple[object, ...]:
    costs = [step.cost_s for step in group if step.cost_s is not None]
    cost_s = sum(costs) if len(costs) == len(group) else None
    done = [step.done_s for step in group if step.done_s is not None]
    num_bytes = sum(s.entry.file_bytes for s in group if s.entry and s.way is Way.LOAD)
    return (
        f'{min(s.start for s in group)}-{max(s.stop for s in group)}',
        len(group),
        group[0].way.value,
        f'{num_bytes / 1e3:.0f}' if num_bytes else '',
        _ms(cost_s),
        _ms(max(done) if len(done) == len(group) else None),
        group[0].reason,
    )


def _ms(seconds: float | None) -> str:
    return 'unknown' if seconds is None else f'{seconds * 1e3:.1f} ms'
