# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of privacy: who may read what was said, and for how long it is kept."""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path

from cwm_ros.config_checks import check_range
from cwm_ros.errors import ConfigError


def default_key_folder() -> Path:
    """Return ``cwm/keys`` in the user's folder of settings, which no store contains."""
    settings = os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'
    return Path(settings) / 'cwm' / 'keys'


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """
    Who may read what was said, and for how long it is kept; see docs/privacy.md.

    Parameters
    ----------
    default_profile
        Whose windows, when nobody says; 'guest' lives in memory only.
    encrypt
        Whether a profile that is made is encrypted; one that is there stays as it is.
    key_provider
        Who keeps the keys of new encrypted profiles: 'file', or one that a package offers.
    key_dir
        Where provider 'file' keeps keys, outside the store; empty means ``cwm/keys`` in the
        user's folder of settings.
    retention_days
        Windows that were not used for so many days are deleted; 0 for never.
    verifier
        Who says whether a token opens a profile on a node; a package offers it in the entry points
        `cwm_ros.profile_verifiers`. Empty: every token does.

    """

    default_profile: str = 'default'
    encrypt: bool = False
    key_provider: str = 'file'
    key_dir: str = ''
    retention_days: int = 0
    verifier: str = ''

    def __post_init__(self) -> None:
        for name in ('default_profile', 'key_provider'):
            if not getattr(self, name):
                raise ConfigError(f'privacy.{name} is empty', hint='see config/default.yaml')
        if '\0' in self.key_dir:
            raise ConfigError(f'privacy.key_dir is {self.key_dir!r}', hint='name a folder')
        check_range('privacy.retention_days', self.retention_days, 0, 36500)

    @property
    def key_path(self) -> Path:
        """Return the folder that ``key_dir`` names."""
        return Path(self.key_dir).expanduser() if self.key_dir else default_key_folder()
