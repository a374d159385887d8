# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of every parser; `make fuzz`."""
