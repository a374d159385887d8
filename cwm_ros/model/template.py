# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Runs a checkpoint's chat template, which is a program by a stranger, within bounds.

Jinja's immutable sandbox keeps it from objects; the bounds here keep it from endless loops and
from filling the memory.
"""

from __future__ import annotations

from functools import wraps
import json
from typing import Protocol, TYPE_CHECKING

from jinja2 import nodes, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cwm_ros.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_TEMPLATE_CHARS = 1 << 18
MAX_VALUE_CHARS = 1 << 22
"""Longest text a template may build on the way."""
EXTRA_OUTPUT_CHARS = 1 << 16
"""What a template may add to the texts, and again for each turn a thousandth of it."""
MAX_PRODUCT = 1 << 28
"""Most characters times characters in a replace or join."""
MAX_STEPS = 200_000
"""Loop rounds and calls in one rendering."""
FORBIDDEN = frozenset(
    {'center', 'expandtabs', 'format', 'format_map', 'indent', 'ljust', 'pprint', 'rjust'}
    | {'translate', 'urlize', 'wordwrap', 'xmlattr', 'zfill', 'filesizeformat'}
)
"""Filters and methods that make much of little; no published template needs them."""


class _Filter(Protocol):
    def __call__(self, *args: object, **kwargs: object) -> object: ...


class _TooMuchError(Exception):
    """The template wants more than its bounds."""


class _Refused(Exception):  # noqa: N818 - the template's own word
    """The template called raise_exception."""


class ChatTemplate:
    """
    A chat template, compiled.

    Parameters
    ----------
    source
        Jinja text.
    constants
        What it sees beside the messages, such as 'bos_token'.

    Raises
    ------
    ModelError
        The template is too long or has a syntax error.

    """

    def __init__(self, source: str, constants: Mapping[str, str]) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ModelError(f'the chat template is longer than {MAX_TEMPLATE_CHARS} characters')
        self._constants = constants
        self._environment = _Bounded(trim_blocks=True, lstrip_blocks=True)
        self._environment.add_extension(loopcontrols)
        try:
            tree = _count_loops(self._environment.parse(source))
            self._template = self._environment.from_string(tree)
        except (TemplateError, RecursionError) as exc:
            raise ModelError(f'the chat template cannot be compiled: {exc}') from exc

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """
        Return the text of a conversation, markers included.

        Parameters
        ----------
        messages
            'role' and 'content' of each turn.
        add_generation_prompt
            Whether the beginning of the assistant's turn comes last.

        Raises
        ------
        ModelError
            The template fails, refuses the conversation, or exceeds its bounds.

        """
        num_chars = sum(len(message['content']) for message in messages)
        limit = num_chars + EXTRA_OUTPUT_CHARS + len(messages) * (EXTRA_OUTPUT_CHARS >> 10)
        self._environment.steps_left = MAX_STEPS
        try:
            return self._join(messages, add_generation_prompt, limit)
        except _Refused as exc:
            raise ModelError(f'the chat template refuses the conversation: {exc}') from exc
        except (TemplateError, _TooMuchError, ArithmeticError, LookupError) as exc:
            raise ModelError(f'the chat template fails: {exc}') from exc
        except (TypeError, ValueError, AttributeError, RecursionError, MemoryError) as exc:
            raise ModelError(f'the chat template fails: {exc}') from exc

    def _join(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: object, limit: int
    ) -> str:
        pieces: list[str] = []
        for piece in self._template.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **self._constants,
        ):
            pieces.append(piece)
            limit -= len(piece)
            if limit < 0:
                raise _TooMuchError('its output is too long')
        return ''.join(pieces)


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox, with a budget of steps and without operators that make much of little."""

    intercepted_binops = frozenset({'+', '*', '**', '%'})

    def __init__(self, *, trim_blocks: bool, lstrip_blocks: bool) -> None:
        super().__init__(trim_blocks=trim_blocks, lstrip_blocks=lstrip_blocks)
        self.steps_left = MAX_STEPS
        self.globals |= {
            'raise_exception': _refuse,
            'range': self._range,
            '_counted': self._counted,
            '_joined': self._joined,
        }
        self.filters['tojson'] = _to_json
        for name in FORBIDDEN & set(self.filters):
            del self.filters[name]
        for name in ('replace', 'join'):
            self.filters[name] = _with_checked_product(self.filters[name])

    def call(self, *args: object, **kwargs: object) -> object:
        self._spend(1)
        _context, function, *given = args
        _check_product(getattr(function, '__self__', ''), given)
        result: object = super().call(*args, **kwargs)  # type: ignore[arg-type]
        return self._checked(result)

    def wrap_str_format(self, _value: object) -> None:
        """Leave ``format`` to `is_safe_attribute`, which forbids it."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return attr not in FORBIDDEN and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: object, operator: str, left: object, right: object) -> object:
        if operator != '+' and not all(isinstance(side, (int, float)) for side in (left, right)):
            raise _TooMuchError(f'{operator} of {type(left).__name__} is not allowed')
        if operator == '**':
            raise _TooMuchError('powers are not allowed')
        self._spend(1)
        return self._checked(super().call_binop(context, operator, left, right))  # type: ignore[arg-type]

    def _spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise _TooMuchError(f'it takes more than {MAX_STEPS} steps')

    def _checked(self, value: object) -> object:
        if isinstance(value, (str, list, tuple, dict)) and len(value) > MAX_VALUE_CHARS:
            raise _TooMuchError('a value is too long')
        return value

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self._spend(min(len(numbers), MAX_STEPS + 1))
        return numbers

    def _counted(self, items: Iterable[object]) -> Iterator[object] | Sequence[object]:
        """Count the rounds of a loop before it runs, as far as they are known."""
        if isinstance(items, (str, list, tuple, dict, range)):
            self._spend(len(items))
            return items  # type: ignore[return-value]
        return self._counting(items)

    def _counting(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self._spend(1)
            yield item

    def _joined(self, *parts: object) -> object:
        self._spend(1)
        return self._checked(''.join(map(str, parts)))


def _count_loops(tree: nodes.Template) -> nodes.Template:
    """Make every loop and every ``~`` of a template spend from the budget."""
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = _call('_counted', [loop.iter])  # type: ignore[list-item]
    for joint in list(tree.find_all(nodes.Concat)):
        joint.nodes = [_call('_joined', joint.nodes)]
    return tree


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Expr:
    function = nodes.Name(name, 'load')
    return nodes.Call(function, arguments, [], None, None, lineno=arguments[0].lineno)


def _check_product(subject: object, given: Sequence[object]) -> None:
    """Refuse text methods whose result may be as long as their arguments' lengths multiplied."""
    lengths = [len(value) for value in given if isinstance(value, (str, list, tuple))]
    if isinstance(subject, str) and len(subject) * max(lengths, default=0) > MAX_PRODUCT:
        raise _TooMuchError('texts are too long to be combined')


def _with_checked_product(function: _Filter) -> _Filter:
    @wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        texts = [arg for arg in args if isinstance(arg, (str, list, tuple))]
        _check_product(str(texts[0]) if texts else '', texts[1:])
        return function(*args, **kwargs)

    return checked


def _refuse(message: str) -> str:
    raise _Refused(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """Write JSON as chat templates are published for: letters stay letters."""
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)
