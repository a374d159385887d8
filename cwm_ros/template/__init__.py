# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Chat templates: programs by strangers, run within bounds, foreign ones in a process of their own.

Nothing is imported here, so that the process takes little memory.
"""
