# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `cwm` command: a shell around `cwm_ros.manager` that works without ROS."""

from __future__ import annotations

from cwm_ros.cli.app import main

__all__ = ['main']
