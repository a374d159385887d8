# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Global options, exit status and error output; the verbs are in the modules beside this one.

Exit status: 0 done, 2 usage, 130 interrupted, else the error's code plus 10. With ``--json``,
stdout carries one JSON object and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import json
import logging
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import click

from cwm_ros import __version__
from cwm_ros.config import load_settings, Settings
from cwm_ros.errors import CwmError, ErrorCode, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_CODE_BASE = 10


_CONTROLS = {
    code: f'\\x{code:02x}' for code in (*range(32), *range(127, 160)) if chr(code) not in '\n\t'
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    What the global options say.

    Parameters
    ----------
    settings
        From ``--config``, with ``--store`` on top.
    profile
        Whose windows.
    is_json
        Whether stdout is for a program.

    """

    settings: Settings
    profile: str
    is_json: bool

    def show(self, values: Mapping[str, object], text: str) -> None:
        """Print the result of a verb, for a program or for a person."""
        if self.is_json:
            click.echo(json.dumps(values, ensure_ascii=False))
        elif text:
            click.echo(printable(text))

    def note(self, text: str) -> None:
        """Tell a person how things go, on stderr."""
        click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Return text without what steers a terminal: turns, tags and models come from files."""
    return text.translate(_CONTROLS)


class LazyGroup(click.Group):
    """Imports a verb's module when the verb is called, so that others start fast."""

    verbs: Mapping[str, str] = {
        'demo': 'measure',
        'eval': 'measure',
        'bench': 'bench',
        'models': 'measure',
        'engine': 'engine',
        'say': 'talk',
        'ingest': 'talk',
        'chat': 'talk',
        'plan': 'plan',
        'list': 'windows',
        'show': 'windows',
        'clone': 'windows',
        'delete': 'windows',
        'pin': 'windows',
        'unpin': 'windows',
        'verify': 'windows',
        'doctor': 'windows',
        'optimize': 'windows',
        'storage': 'windows',
        'export': 'bundles',
        'import': 'bundles',
        'forget': 'bundles',
        'profile': 'profile',
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self.verbs:
            return None
        import importlib

        module = importlib.import_module(f'cwm_ros.cli.{self.verbs[cmd_name]}')
        command: click.Command = getattr(module, f'{cmd_name}_command')
        return command


@click.group(cls=LazyGroup, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__, prog_name='cwm')
@click.option('--store', type=click.Path(path_type=Path), help='Folder of the store.')
@click.option('--profile', help='Whose windows  [default: privacy.default_profile]')
@click.option('--config', type=click.Path(path_type=Path), help='ROS parameter file (YAML).')
@click.option('--json', 'is_json', is_flag=True, help='One JSON object on stdout.')
@click.option('--verbose', '-v', is_flag=True, help='Log to stderr what is done.')
@click.pass_context
def cli(
    ctx: click.Context,
    *,
    store: Path | None,
    profile: str | None,
    config: Path | None,
    is_json: bool,
    verbose: bool,
) -> None:
    """Freeze an assistant's memory to disk, and thaw it, what matters most first."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format='%(levelname)s %(message)s'
    )
    settings = load_settings(config) if config else Settings()
    if store:
        settings = replace(settings, storage=replace(settings.storage, root=store))
    profile = profile or settings.privacy.default_profile
    ctx.obj = Options(settings=settings, profile=profile, is_json=is_json)


def run(arguments: list[str]) -> None:
    """Run the command line and exit; `cwm_ros.cli.main` handles Ctrl-C."""
    if '--json' in arguments:  # a global option, which people also write after the verb
        arguments = ['--json', *(argument for argument in arguments if argument != '--json')]
    try:
        cli.main(arguments, prog_name='cwm', standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort as exc:
        raise KeyboardInterrupt from exc
    except CwmError as exc:
        show_error(exc, is_json='--json' in arguments)
        sys.exit(EXIT_CODE_BASE + exc.code)
    except OSError as exc:
        show_error(StorageError(str(exc), hint='check the path'), is_json='--json' in arguments)
        sys.exit(EXIT_CODE_BASE + ErrorCode.IO)


def show_error(error: CwmError, *, is_json: bool) -> None:
    """Print an error with its remedy: on stderr for a person, as JSON for a program."""
    if is_json:
        described = {
            'code': int(error.code),
            'name': error.code.name,
            'message': error.message,
            'hint': error.hint,
        }
        click.echo(json.dumps({'error': described}))
        return
    click.echo(printable(f'cwm: {error.code.name}: {error.message}'), err=True)
    if error.hint:
        click.echo(printable(f'  remedy: {error.hint}'), err=True)
