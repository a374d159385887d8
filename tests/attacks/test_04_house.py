# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing in the package runs what it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import cwm_ros

MODULES = {'pickle', 'cPickle', 'marshal', 'shelve', 'dill', 'joblib', 'cloudpickle'}
CALLS = {'eval', 'exec', 'compile', '__import__'}
ATTRIBUTES = {('yaml', 'load'), ('yaml', 'unsafe_load'), ('torch', 'load'), ('os', 'system')}


def finding(node: ast.AST) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.name.split('.')[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.split('.')[0]}
        return ', '.join(names & MODULES)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id if node.func.id in CALLS else ''
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        pair = (node.value.id, node.attr)
        return '.'.join(pair) if pair in ATTRIBUTES else ''
    if isinstance(node, ast.keyword) and node.arg in ('allow_pickle', 'shell'):
        return (
            node.arg if not (isinstance(node.value, ast.Constant) and not node.value.value) else ''
        )
    return ''


def test_no_pickle_and_no_eval() -> None:
    found = [
        f'{path.name}:{getattr(node, "lineno", 0)} {what}'
        for path in sorted(Path(cwm_ros.__file__).parent.rglob('*.py'))
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if (what := finding(node))
    ]

    assert found == []


def test_the_search_finds_what_it_looks_for() -> None:
    source = 'import pickle\neval(x)\nyaml.load(y)\nnp.load(z, allow_pickle=True)\n'

    assert sum(bool(finding(node)) for node in ast.walk(ast.parse(source))) == 4
