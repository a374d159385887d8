# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Verbs on profiles: create, list, erase."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from cwm_ros.cli.picture import table
from cwm_ros.config import MIB
from cwm_ros.store.profiles import create_profile, erase_profile, list_profiles

if TYPE_CHECKING:
    from cwm_ros.cli.app import Options
    from cwm_ros.store.profiles import Erasure, ProfileInfo


@click.group('profile')
def profile_command() -> None:
    """Drivers: each has windows of their own, and a key."""


def _values(info: ProfileInfo) -> dict[str, object]:
    return {**asdict(info), 'state': info.state.value}


@profile_command.command('list')
@click.pass_obj
def list_command(options: Options) -> None:
    """List the profiles of the store."""
    infos = list_profiles(options.settings.storage.root, options.settings.privacy)
    rows = [
        (
            info.name,
            f'yes ({info.key_provider})' if info.is_encrypted else 'no',
            info.state.value,
            info.windows,
            f'{info.bytes / MIB:.1f}',
        )
        for info in infos
    ]
    headings = ('profile', 'encrypted', 'state', 'windows', 'MiB')
    text = table(headings, rows) if rows else 'no profiles'
    options.show({'profiles': [_values(info) for info in infos]}, text)


@profile_command.command('create')
@click.argument('name')
@click.option(
    '--encrypt/--plain', default=None, help='Encrypt it, or not  [default: privacy.encrypt]'
)
@click.pass_obj
def create_command(options: Options, *, name: str, encrypt: bool | None) -> None:
    """Make profile NAME."""
    privacy = options.settings.privacy
    if encrypt is not None:
        privacy = replace(privacy, encrypt=encrypt)
    info = create_profile(options.settings.storage.root, name, privacy)
    kind = f'encrypted, {info.key_provider} has its key' if info.is_encrypted else 'not encrypted'
    options.show(_values(info), f'profile {name} is made: {kind}')


@profile_command.command('erase')
@click.argument('name')
@click.option('--yes', is_flag=True, help='Do it; without, what would go is told.')
@click.pass_obj
def erase_command(options: Options, *, name: str, yes: bool) -> None:
    """Erase profile NAME for good: its key first, then its files."""
    settings = options.settings
    erasure = erase_profile(
        settings.storage.root,
        name,
        settings.privacy,
        is_confirmed=yes,
        lock_timeout_s=settings.storage.lock_timeout_s,
    )
    options.show(asdict(erasure), '\n'.join(_tell(erasure)))


def _tell(erasure: Erasure) -> list[str]:
    verb = 'erased' if erasure.is_done else 'to be erased'
    lines = [
        (
            f'profile {erasure.name}, {verb}: {erasure.windows} windows, {erasure.bytes} bytes, '
            f'{erasure.quarantine_files} of the files in quarantine'
        )
    ]
    if erasure.is_key_unseen:
        lines.append(
            f'provider {erasure.key_provider} has no key of it that can be loaded '
            '(privacy.key_dir?): with a key that lies elsewhere, copies of this profile can be '
            'read until you destroy that key, too'
        )
    elif erasure.is_encrypted:
        lines.append(
            f'the key that provider {erasure.key_provider} has is destroyed: '
            'no copy of this profile can be read again'
        )
    else:
        lines.append(
            'it is not encrypted: copies and bundles of it stay readable, and so may be what the '
            'drive keeps of removed files'
        )
    lines += [f'a bundle was written to {bundle}' for bundle in erasure.bundles]
    if not erasure.is_done:
        lines.append('nothing was done; say it again with --yes to do it')
    return lines
