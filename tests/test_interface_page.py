# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.interface_page import PAGE, render


def test_the_page_says_what_parameters_and_messages_say() -> None:
    """`make generate` writes it anew."""
    assert PAGE.read_text(encoding='utf-8') == render()
