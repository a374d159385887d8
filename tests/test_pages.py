# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pages for users refer to is there."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', page.read_text(encoding='utf-8'))
    lost = [
        link
        for link in links
        if not link.startswith(('http:', 'https:')) and not (page.parent / link).exists()
    ]

    assert lost == []


def anchors_of(page: Path) -> set[str]:
    """Return what links may name after '#': headings, as GitHub spells them."""
    headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    plain = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
    return {heading.replace(' ', '-') for heading in plain}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_anchors_are_headings(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    links = re.findall(r'\]\(([^)#\s:]*)#([^)\s]+)\)', text)
    lost = [
        f'{name}#{anchor}'
        for name, anchor in links
        if anchor not in anchors_of(page.parent / name if name else page)
    ]

    assert lost == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    named = re.findall(r'`(test_\w+\.py)`', text)
    folders = re.findall(r'`(tests/[\w/]+)`', text)

    assert [name for name in named if not any((ROOT / 'tests').rglob(name))] == []
    assert [name for name in folders if not (ROOT / name).exists()] == []


@pytest.mark.parametrize('page', ['README.md', 'docs/integration.md', 'docs/interfaces.md'])
def test_launch_files_and_arguments_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding='utf-8')
    told = set(re.findall(r'\b(\w+\.launch\.py)', text))
    there = {path.name for path in ROOT.rglob('launch/*.launch.py')}
    sources = ''.join(path.read_text() for path in (ROOT / 'launch').glob('*.py'))

    assert told
    assert told <= there
    for argument in re.findall(r'\b([a-z_]+):=', text):
        assert f"'{argument}'" in sources, argument
