# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The settings as ROS parameters: declared, described, read, and guarded against changes."""

from __future__ import annotations

from dataclasses import fields
import inspect
from pathlib import Path
import re
from typing import get_type_hints, TYPE_CHECKING

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult

from cwm_ros.config import build_settings, Settings
from cwm_ros.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rclpy.node import Node
    from rclpy.parameter import Parameter

LIVE_GROUPS = ('power', 'ignition', 'shutdown')
"""Groups whose parameters may change while the node is configured."""
FOREIGN = re.compile(r'^(use_sim_time|start_type_description_service|qos_overrides\..*)$')


def declare(node: Node) -> None:
    """
    Declare every setting with its default, type and description.

    Raises
    ------
    ConfigError
        The node was given parameters that do not exist, or a value of the wrong type.

    """
    names = set()
    for group, kind in get_type_hints(Settings).items():
        texts, default = _descriptions(kind), kind()
        for item in fields(kind):
            name = f'{group}.{item.name}'
            names.add(name)
            value = getattr(default, item.name)
            try:
                node.declare_parameter(
                    name, _to_ros(value), ParameterDescriptor(description=texts[item.name])
                )
            except Exception as exc:
                given = node._parameter_overrides.get(name)  # noqa: SLF001 - no other way
                raise ConfigError(
                    f'parameter {name} is {given.value if given else value!r}: {exc}',
                    hint=f'use a {type(_to_ros(value)).__name__}',
                ) from exc
    given = set(node._parameter_overrides)  # noqa: SLF001 - rclpy offers no other way
    unknown = sorted(name for name in given - names if not FOREIGN.match(name))
    if unknown:
        raise ConfigError(
            f'parameter {unknown[0]} is unknown', hint='see config/default.yaml for all'
        )


def read(node: Node, changed: Iterable[Parameter] = ()) -> Settings:
    """
    Build settings from the node's parameters, with changes that are not made yet.

    Raises
    ------
    ConfigError
        A value is not allowed.

    """
    values: dict[str, dict[str, object]] = {}
    new = {parameter.name: parameter.value for parameter in changed}
    for group, kind in get_type_hints(Settings).items():
        for item in fields(kind):
            name = f'{group}.{item.name}'
            value = new[name] if name in new else node.get_parameter(name).value
            values.setdefault(group, {})[item.name] = value
    return build_settings('the parameters', values)


def check_change(
    node: Node, changed: Iterable[Parameter], *, is_configured: bool
) -> SetParametersResult:
    """Accept changes that make valid settings now; explain what is refused."""
    changed = list(changed)
    for parameter in changed:
        group = parameter.name.partition('.')[0]
        if is_configured and group in get_type_hints(Settings) and group not in LIVE_GROUPS:
            reason = f'{parameter.name} is read at configure: cleanup, set it, and configure again'
            return SetParametersResult(successful=False, reason=reason)
    try:
        read(node, changed)
    except ConfigError as exc:
        return SetParametersResult(successful=False, reason=str(exc))
    return SetParametersResult(successful=True)


def _to_ros(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _descriptions(kind: type) -> Mapping[str, str]:
    """Return what a settings class's docstring says of each of its parameters."""
    text = inspect.cleandoc(kind.__doc__ or '').partition('----------\n')[2]
    found: dict[str, str] = {}
    for block in re.split(r'\n(?=\S)', text):
        names, _, body = block.partition('\n')
        for name in names.split(', '):
            found[name.strip()] = ' '.join(body.split())
    return found
