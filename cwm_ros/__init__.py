# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An in-vehicle assistant's memory: freeze a conversation's KV cache, thaw it, go on talking."""

__version__ = '0.1.0'
