# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements and evaluation: dialogues, recall, rates, tables and plots."""
