# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 shell: a lifecycle node around `cwm_ros.manager`. The only room that imports ROS."""
