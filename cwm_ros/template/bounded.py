# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Runs a checkpoint's chat template, which is a program by a stranger, within bounds.

Jinja's immutable sandbox keeps it from objects. Here it gets a short list of filters and methods,
none of which makes much of little, and a budget that loops, calls and long values spend: so it
ends soon and stays small, whatever it says. It never sees what the turns say.
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
MAX_VALUE_CHARS = 1 << 18
"""Longest text or list a template may build on the way; what turns say is not among it."""
MAX_NUMBER_BITS = 256
EXTRA_OUTPUT_CHARS = 1 << 16
"""What a template may add to the texts, and again for each turn a thousandth of it."""
MAX_PRODUCT = 1 << 22
"""Most characters times characters in a replace or join."""
MAX_STEPS = 200_000
"""Loop rounds, calls and lengths / `STEP_CHARS` in one rendering."""
STEP_CHARS = 64
CALL_STEPS = 2
REMEDY = "put the family's published template into chat_template.jinja"
FILTERS = frozenset(
    {'abs', 'capitalize', 'count', 'd', 'default', 'dictsort', 'e', 'escape', 'first', 'float'}
    | {'int', 'items', 'join', 'last', 'length', 'list', 'lower', 'map', 'max', 'min', 'reject'}
    | {'rejectattr', 'replace', 'reverse', 'round', 'safe', 'select', 'selectattr', 'sort'}
    | {'string', 'title', 'tojson', 'trim', 'unique', 'upper'}
)
METHODS = frozenset(
    {'capitalize', 'copy', 'count', 'endswith', 'find', 'get', 'index', 'isalpha', 'isdigit'}
    | {'islower', 'isspace', 'isupper', 'items', 'join', 'keys', 'lower', 'lstrip', 'partition'}
    | {'removeprefix', 'removesuffix', 'replace', 'rfind', 'rpartition', 'rsplit', 'rstrip'}
    | {'split', 'splitlines', 'startswith', 'strip', 'title', 'upper', 'values'}
)
"""What may be used of texts, lists and mappings: what published templates need, and the like."""
GLOBALS = frozenset({'dict', 'namespace', 'range'})
PLAIN = (str, bytes, int, float, list, tuple, dict, range)


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
            raise ModelError(
                f'the chat template is longer than {MAX_TEMPLATE_CHARS} characters',
                hint=REMEDY,
                is_template_lost=True,
            )
        self._constants = constants
        self._environment = _Bounded(trim_blocks=True, lstrip_blocks=True)
        self._environment.add_extension(loopcontrols)
        try:
            tree = _count_work(self._environment.parse(source))
            self._template = self._environment.from_string(tree)
        except (TemplateError, RecursionError) as exc:
            raise ModelError(
                f'the chat template cannot be compiled: {exc}', hint=REMEDY, is_template_lost=True
            ) from exc

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
            raise ModelError(
                f'the chat template refuses the conversation: {exc}',
                hint='it was written for other roles, or another order of them',
            ) from exc
        except (TemplateError, _TooMuchError, ArithmeticError, LookupError) as exc:
            raise ModelError(f'the chat template fails: {exc}', hint=REMEDY) from exc
        except (TypeError, ValueError, AttributeError, RecursionError, MemoryError) as exc:
            raise ModelError(f'the chat template fails: {exc}', hint=REMEDY) from exc

    def close(self) -> None:
        """Do nothing: there is no process, as another template has."""

    def _join(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: object, limit: int
    ) -> str:
        pieces: list[str] = []
        for piece in self._template.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            enable_thinking=False,
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
        kept = {name: self.globals[name] for name in GLOBALS}
        self.globals.clear()
        self.globals |= kept
        self.globals |= {
            'raise_exception': _refuse,
            'range': self._range,
            '_counted': self._counted,
            '_joined': self._joined,
            '_weighed': self._weighed,
        }
        self.filters['tojson'] = _to_json
        allowed = {name: self._bounded(self.filters[name]) for name in FILTERS}
        self.filters.clear()
        self.filters |= allowed

    def _bounded(self, function: _Filter) -> _Filter:
        """Return a filter that spends for what it gets and what it makes."""

        @wraps(function)
        def bounded(*args: object, **kwargs: object) -> object:
            sized = [self._weighed(arg) for arg in args if isinstance(arg, PLAIN)]
            _check_product(sized[0] if sized else '', sized[1:])
            return self._checked(function(*args, **kwargs))

        return bounded

    def call(self, *args: object, **kwargs: object) -> object:
        self._spend(CALL_STEPS)
        _context, function, *given = args
        _check_product(self._weighed(getattr(function, '__self__', '')), given)
        result: object = super().call(*args, **kwargs)  # type: ignore[arg-type]
        return self._checked(result)

    def wrap_str_format(self, _value: object) -> None:
        """Leave ``format`` to `is_safe_attribute`, which forbids it."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        is_listed = not isinstance(obj, PLAIN) or attr in METHODS
        return is_listed and super().is_safe_attribute(obj, attr, value)

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
        if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
            raise _TooMuchError('a number is too large')
        return self._weighed(value)

    def _weighed(self, value: object) -> object:
        """Spend for the length of a value that is to be looked through."""
        if isinstance(value, (str, list, tuple, dict)):
            self._spend(len(value) // STEP_CHARS)
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


def _count_work(tree: nodes.Template) -> nodes.Template:
    """Make loops, comparisons, slices and each ``~`` of a template spend from the budget."""
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = _call('_counted', [loop.iter])  # type: ignore[list-item]
    for joint in list(tree.find_all(nodes.Concat)):
        joint.nodes = [_call('_joined', joint.nodes)]
    for comparison in list(tree.find_all(nodes.Compare)):
        comparison.expr = _call('_weighed', [comparison.expr])
        for operand in comparison.ops:
            operand.expr = _call('_weighed', [operand.expr])
    for item in list(tree.find_all(nodes.Getitem)):
        if isinstance(item.arg, nodes.Slice):
            item.node = _call('_weighed', [item.node])
    return tree


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Expr:
    function = nodes.Name(name, 'load')
    return nodes.Call(function, arguments, [], None, None, lineno=arguments[0].lineno)


def _check_product(subject: object, given: Sequence[object]) -> None:
    """Refuse text methods whose result may be as long as their arguments' lengths multiplied."""
    lengths = [len(value) for value in given if isinstance(value, (str, list, tuple))]
    if isinstance(subject, (str, list, tuple)) and (
        len(subject) * max(lengths, default=0) > MAX_PRODUCT
    ):
        raise _TooMuchError('values are too long to be combined')


def _refuse(message: str) -> str:
    raise _Refused(message)


def _to_json(value: object, indent: int | None = None) -> str:
    """Write JSON as chat templates are published for: letters stay letters."""
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)
