# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small nodes around the assistant: ears, mouths, and a vehicle for benches."""
