# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whose windows are open: another driver's profile, and erasing one; knows nothing of ROS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cwm_ros.errors import BusyError, ConfigError
from cwm_ros.node import jobs
from cwm_ros.node.confirm import Confirmations, open_verifier, Told
from cwm_ros.node.waiting import Waiting
from cwm_ros.node.worker import Urgency
from cwm_ros.store.profiles import erase_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from cwm_ros.config import Settings
    from cwm_ros.node.core import Core

LOCK_TIMEOUT_S = 0.4
CHANGE_TIMEOUT_S = 5.0
"""Beside the save of the window that is left."""


class Drivers:
    """
    The profile that is open.

    Parameters
    ----------
    clock
        Steady clock [s].

    Attributes
    ----------
    profile
        Its name; empty before the first configure.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.profile = ''
        self._clock = clock
        self._confirmations = Confirmations()

    def change(self, core: Core, settings: Settings, profile: str, token: str) -> None:
        """
        Save and leave the open window, and open another driver's profile; waits for it.

        Raises
        ------
        BusyError, KeyMissingError, BadNameError
            It cannot be done.
        ConfigError
            The verifier does not accept the token.

        """
        verifier = open_verifier(settings.privacy.verifier)
        if not verifier(profile, token):
            raise ConfigError(f'profile {profile!r}: the token is not accepted')
        core.cancel(Urgency.TALK, Urgency.THAW)
        waiting = Waiting()
        run = partial(jobs.use_profile, profile=profile)
        core.submit('change the profile', Urgency.SAVE, run, on_end=waiting.end)
        waiting.take(settings.shutdown.budget + CHANGE_TIMEOUT_S, 'change the profile')
        self.profile = profile

    def erase(self, settings: Settings, profile: str, token: str) -> Told:
        """
        Say what erasing a profile destroys; with the token that was told, do it.

        Raises
        ------
        BusyError
            It is the open one.
        NotFoundError, KeyMissingError
            There is no such profile, or its key cannot be destroyed here.
        ConfigError
            The token is not the one that was told, or too old.

        """
        if profile == self.profile:
            raise BusyError(f'profile {profile!r} is open', hint='set another profile first')
        if token and not self._confirmations.take(profile, token, self._clock()):
            raise ConfigError('the token is not valid', hint='ask again without a token')
        erasure = erase_profile(
            settings.storage.root,
            profile,
            settings.privacy,
            is_confirmed=bool(token),
            lock_timeout_s=LOCK_TIMEOUT_S,
        )
        told = '' if token else self._confirmations.give(profile, self._clock())
        return Told(
            confirm_token=told,
            erased=(
                f'{erasure.windows} windows, {erasure.bytes} bytes',
                f'{erasure.quarantine_files} damaged files that were set aside',
                *(('its key',) if erasure.is_encrypted and not erasure.is_key_unseen else ()),
            ),
            remains=(
                *(
                    (f'its key, if it lies elsewhere: {erasure.key_provider} does not have it',)
                    if erasure.is_key_unseen
                    else ()
                ),
                *erasure.bundles,
            ),
        )
