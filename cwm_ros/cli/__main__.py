# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run the command line with ``python -m cwm_ros.cli``."""

from cwm_ros.cli import main

main()
