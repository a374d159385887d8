# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What a family's chat template does with a conversation, found by trying it.

A conversation grows turn by turn, and what was rendered must stay as it was. Templates are written
for whole conversations: some take no system turn, or only together with the user's; some end
with a token that vanishes when a turn follows, or render the last answer in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
import re
from typing import TYPE_CHECKING

from cwm_ros.errors import ModelError
from cwm_ros.kv import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cwm_ros.model.tokenizer import Tokenizer
    from cwm_ros.template.bounded import ChatTemplate
    from cwm_ros.template.remote import RemoteTemplate

    Template = ChatTemplate | RemoteTemplate

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT
JOINT = '\n\n'
"""Between a system text and the user's, where the template takes them as one."""
PROBE = '\ue001{}\ue002'
NEXT = '\ue003'
BLANK = '\ue004'
MARK = re.compile(r'<\|?/?\w+\|?>|<</?\w+>>|\[/?\w+\]')
NO_MARK = re.compile(r'((?!))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """
    How to ask a template for a rendering that stays when turns follow.

    Parameters
    ----------
    takes_system, takes_later_system
        Whether it takes a system turn at the beginning, and later; if not, the text goes before
        the next user's.
    takes_system_alone
        Whether a system turn can be rendered before the user's is known.
    looks_ahead
        Whether the last turn is rendered differently when another follows.
    marks
        What it writes in letters, not markers, to say who speaks; one group.

    """

    tokenizer: Tokenizer
    takes_system: bool = True
    takes_later_system: bool = True
    takes_system_alone: bool = True
    looks_ahead: bool = False
    marks: re.Pattern[str] = NO_MARK

    def render(
        self,
        template: Template,
        roles: Sequence[Role],
        contents: Sequence[str],
        *,
        add_generation_prompt: bool,
    ) -> str:
        """
        Return the text of a conversation, or of its beginning when a system turn ends it.

        Raises
        ------
        ModelError
            As for `ChatTemplate.render`.

        """
        messages = self._messages(roles, contents)
        if add_generation_prompt or not roles:
            return template.render(messages, add_generation_prompt=add_generation_prompt)
        if roles[-1] is SYSTEM and not self._takes_last(len(roles)):
            messages = self._messages([*roles, USER], [*contents, NEXT])
            return template.render(messages, add_generation_prompt=False).partition(NEXT)[0]
        if not self.looks_ahead:
            return template.render(messages, add_generation_prompt=False)
        *before, last = contents
        if last.strip():
            return self._followed(template, roles, contents)
        return self._followed(template, roles, [*before, last + BLANK]).replace(BLANK, '')

    def _followed(self, template: Template, roles: Sequence[Role], contents: Sequence[str]) -> str:
        """Render a conversation as it will be when another turn follows."""
        messages = self._messages(roles, contents)
        alone = template.render(messages, add_generation_prompt=False)
        follower = ASSISTANT if roles[-1] is USER else USER
        messages = self._messages([*roles, follower], [*contents, NEXT])
        followed = template.render(messages, add_generation_prompt=False)
        return self._common_end(alone, followed, contents[-1].strip())

    def _takes(self, index: int) -> bool:
        return self.takes_later_system if index else self.takes_system

    def _takes_last(self, num_turns: int) -> bool:
        return self._takes(num_turns - 1) and (num_turns > 1 or self.takes_system_alone)

    def _messages(self, roles: Sequence[Role], contents: Sequence[str]) -> list[dict[str, str]]:
        messages = []
        held = ''
        for index, (role, content) in enumerate(zip(roles, contents, strict=True)):
            if role is SYSTEM and not self._takes(index):
                held += f'{content}{JOINT}' if content.strip() else ''
                continue
            if held and role is not USER:
                messages.append({'role': USER.value, 'content': held})
                held = ''
            messages.append({'role': role.value, 'content': f'{held}{content}'})
            held = ''
        if held:
            messages.append({'role': USER.value, 'content': held})
        return messages

    def _common_end(self, alone: str, followed: str, last: str) -> str:
        """Return ``followed`` up to the last turn and as much of its end as ``alone`` shares."""
        if last not in alone or last not in followed:
            return alone
        _, _, own_end = alone.rpartition(last)
        head, _, end = followed.rpartition(last)
        common = ''
        for mine, other in zip(*map(self.tokenizer.split_markers, (own_end, end)), strict=False):
            if mine != other:
                break
            common += mine if isinstance(mine, str) else mine.content
        return f'{head}{last}{common}'


def find_habits(template: Template, tokenizer: Tokenizer) -> Habits:
    """
    Return the habits of ``template``; one that fails on everything has none.

    Raises
    ------
    ModelError
        It cannot be tried.

    """

    def tried(*roles: Role) -> str | None:
        contents = [PROBE.format(index) for index in range(len(roles))]
        messages = [
            {'role': role.value, 'content': content}
            for role, content in zip(roles, contents, strict=True)
        ]
        try:
            text = template.render(messages, add_generation_prompt=False)
        except ModelError as exc:
            if exc.is_template_lost:
                raise
            return None
        return text if re.findall('\ue001.*?\ue002', text) == contents else None

    asked = tried(USER, ASSISTANT, USER)
    if asked is None:
        return Habits(tokenizer=tokenizer)
    answered = tried(USER, ASSISTANT)
    alone, with_user = tried(SYSTEM), tried(SYSTEM, USER)
    takes_system = with_user is not None
    first = (SYSTEM,) if takes_system else ()
    later = tried(*first, USER, ASSISTANT, SYSTEM, USER)
    return Habits(
        tokenizer=tokenizer,
        takes_system=takes_system,
        takes_later_system=later is not None,
        takes_system_alone=alone is not None and str(with_user).startswith(alone),
        looks_ahead=answered is not None and not asked.startswith(answered),
        marks=_marks(tokenizer, f'{asked}{with_user}'),
    )


def _marks(tokenizer: Tokenizer, text: str) -> re.Pattern[str]:
    """Find what looks like a marker and is none."""
    letters = [part for part in tokenizer.split_markers(text) if isinstance(part, str)]
    found = sorted({mark for part in letters for mark in MARK.findall(part)}, key=len)
    if not found:
        return NO_MARK
    return re.compile('(' + '|'.join(re.escape(mark) for mark in reversed(found)) + ')')
