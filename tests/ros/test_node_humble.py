# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What differs in the rclpy of humble, where it can be had from a newer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import rclpy
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from cwm_ros.node import node as node_module
from cwm_ros.node.node import CwmNode, SUCCESS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.ros


@pytest.mark.parametrize('has_post_set', [True, False])
def test_a_change_is_used_with_and_without_a_callback_after_it(
    tmp_path: Path, engine_cache: Path, monkeypatch: pytest.MonkeyPatch, *, has_post_set: bool
) -> None:
    monkeypatch.setattr(node_module, 'HAS_POST_SET', has_post_set)
    rules = [f'storage.root:="{tmp_path}"', f'engine.cache_dir:="{engine_cache}"']
    args = ['--ros-args', *(part for rule in rules for part in ('-p', rule))]
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = CwmNode('cwm_humble', why_no_engine='not needed here')
    try:
        assert node.trigger_configure() == SUCCESS
        assert node.set_parameters([Parameter('shutdown.budget', value=1.5)])[0].successful
        assert node.assistant.settings.shutdown.budget == 1.5
        assert not node.set_parameters([Parameter('shutdown.budget', value=-1.0)])[0].successful
        assert node.assistant.settings.shutdown.budget == 1.5
    finally:
        node.save_and_close()
        node.board.close()
        node.destroy_node()
        rclpy.shutdown()
