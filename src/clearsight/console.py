"""Common behaviour of all commands: flags as in `az`, printing of results, errors of one line.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
"""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import click
import jmespath
import orjson
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clearsight.errors import ClearsightError
from clearsight.files import os_error_message
from clearsight.tasks import Task

__all__ = [
    "TASK",
    "AzCommand",
    "LazyCommand",
    "LazyGroup",
    "emit",
    "parse_assignments",
    "progress",
    "result_options",
    "stderr",
    "without_effect",
]

P = ParamSpec("P")
T = TypeVar("T")

TASK = click.Choice([task.value for task in Task])
"""The type of an option that names a task."""

_BY_PATH: Final = "jobs name their data by path, and `clearsight data check` looks at it"
AZ_ONLY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "compute": "jobs run on this machine, whatever `compute` names",
        "datastore": "map its name to a folder under `datastores:` in the workspace's config.yaml",
        "environment": "jobs and deployments run in the Python that Clearsight is installed in",
        "workspace": "a workspace is a folder: .clearsight, or the one of CLEARSIGHT_HOME",
        **dict.fromkeys(
            ("capability-host", "component", "connection", "feature-set", "feature-store", "feature-store-entity",
             "index", "marketplace-subscription", "registry", "schedule", "serverless-endpoint"),
            "it has no meaning on one machine",
        ),
        **{f"data {verb}": _BY_PATH for verb in
           ("archive", "import", "mount", "restore", "share", "update")},
        **{f"job {verb}": "a job is a folder below runs/ in the workspace" for verb in
           ("archive", "connect-ssh", "restore", "show-services", "update")},
        **{f"model {verb}": "a version is a folder below models/ in the workspace" for verb in
           ("archive", "package", "restore", "share", "update")},
    }
)  # fmt: skip
"""Commands of `az ml` that Clearsight lacks, with what to do instead: a name that is spelled alike is no help there."""

stderr = Console(stderr=True, highlight=False)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Yield the items, with a progress bar on stderr when that is a terminal."""
    return track(items, description, total, console=stderr, transient=True, disable=not stderr.is_terminal)


class AzCommand(click.Command):
    r"""A command that reads flags as `az` does.

    Unambiguous abbreviations of long flags work (`--endpoint` for `--endpoint-name`). An option with `multiple=True`
    takes several values per flag (`--set a=1 b=2`). In help texts, a line `\b` keeps the lines of its paragraph.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.help:  # docstrings are raw, so click's mark for "do not wrap" arrives as two characters
            self.help = self.help.replace("\\b\n", "\b\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._expand(ctx, args))

    def _expand(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {
            flag: option
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for flag in (*option.opts, *option.secondary_opts)
        }
        expanded: list[str] = []
        repeated: str | None = None  # the multiple flag whose values are being read
        values = 0
        for position, arg in enumerate(args):
            if arg == "--":
                expanded += args[position:]
                break
            if arg.startswith("-") and len(arg) > 1 and not arg[1].isdigit():
                name, _, value = arg.partition("=")
                flag = self._match(name, options)
                expanded.append(f"{flag}={value}" if "=" in arg else flag)
                option = options.get(flag)
                repeated = flag if option is not None and option.multiple and "=" not in arg else None
                values = 0
            else:
                if repeated is not None and values:
                    expanded.append(repeated)
                expanded.append(arg)
                values += 1
        return expanded

    @staticmethod
    def _match(name: str, options: dict[str, click.Option]) -> str:
        if name in options or not name.startswith("--"):
            return name
        matches = sorted({flag for flag in options if flag.startswith(name)})
        return matches[0] if len(matches) == 1 else name


class LazyCommand(NamedTuple):
    """A command that is imported when used: its location, its help line, and the extra of the package that it needs."""

    location: str
    """`module:attribute`"""
    summary: str
    extra: str


class LazyGroup(click.Group):
    """A group whose commands are imported when used."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        lazy = self._lazy[cmd_name]
        module, _, attribute = lazy.location.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{ctx.command_path} {cmd_name} needs the package {error.name!r}, which is not installed; "
                f"install it with: pip install 'clearsight[{lazy.extra}]'"
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            advice = AZ_ONLY.get(" ".join([*ctx.command_path.split()[1:], name]))
            if advice is not None:
                hint = f" `az ml` has it; here {advice}."
            else:
                hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{ctx.command_path} has no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        eager = {name: command.get_short_help_str() for name, command in self.commands.items()}
        lines = {**{name: lazy.summary for name, lazy in self._lazy.items()}, **eager}
        with formatter.section("Commands"):
            formatter.write_dl(list(lines.items()))


def result_options(function: Callable[P, Any]) -> Callable[P, None]:
    """Give a command `--output/-o` and `--query`, print what the function returns, and translate errors.

    The function returns plain data (dict, list, str, None); None prints nothing. Where the user asked for JSON by flag,
    an error is also printed on stdout, as the body of Azure's REST APIs. `-g`, `-w` and `--subscription`
    are accepted and ignored, so that `az ml` scripts port by replacing the program.
    """

    @click.option(
        "--output",
        "-o",
        "output_format",
        default="json",
        show_default=True,
        type=click.Choice(["json", "jsonl", "table", "tsv", "yaml", "none"]),
        help="How to print the result.",
    )
    @click.option("--query", metavar="JMESPATH", help="Print only this part of the result.")
    @click.option("--resource-group", "-g", hidden=True)
    @click.option("--workspace-name", "-w", hidden=True)
    @click.option("--subscription", hidden=True)
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        output_format: str,
        query: str | None,
        resource_group: str | None,
        workspace_name: str | None,
        subscription: str | None,
        **kwargs: Any,
    ) -> None:
        try:
            result = _call(function, *args, **kwargs)
        except ClearsightError as error:
            if output_format == "json" and _is_given("output_format"):
                emit(error.to_document())
            raise
        if result is not None:
            emit(result, output_format, query)

    return wrapper  # type: ignore[return-value]


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a command's function; what the operating system refuses (a full disk, a read-only folder) is one line."""
    try:
        return function(*args, **kwargs)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ClearsightError(os_error_message(error)) from error


def _is_given(parameter: str) -> bool:
    """Whether the running command got a parameter from its user."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def emit(result: Any, output_format: str = "json", query: str | None = None) -> None:
    """Print plain data on stdout in one of `az`'s formats, after an optional JMESPath query."""
    if query:
        try:
            result = jmespath.search(query, _plain(result))
        except jmespath.exceptions.JMESPathError as error:
            raise click.UsageError(f"--query must be a JMESPath expression, but got {query!r}: {error}") from None
    result = _plain(result)
    match output_format:
        case "none":
            return
        case "json":
            text = orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()
        case "jsonl":
            text = "\n".join(orjson.dumps(item).decode() for item in (result if isinstance(result, list) else [result]))
        case "yaml":
            text = yaml.safe_dump(result, sort_keys=False, allow_unicode=True).rstrip("\n")
        case "tsv":
            text = "\n".join("\t".join(_cells(row)) for row in (result if isinstance(result, list) else [result]))
        case _:
            _print_table(result)
            return
    click.echo(text)


def _plain(value: Any) -> Any:
    """Convert to types of JSON: paths and enums become text, tuples lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells(row: Any) -> list[str]:
    return [_text(value) for value in (row.values() if isinstance(row, dict) else [row])]


def _print_table(result: Any) -> None:
    """Print one line per object; keys with nested values are left out, unless there are no others."""
    rows: Sequence[Any] = result if isinstance(result, list) else [result]
    if not rows or not isinstance(rows[0], dict):
        click.echo("\n".join(_text(row) for row in rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = dict.fromkeys(key for row in rows for key in row)
    columns = [name for name in names if not any(isinstance(row.get(name), (dict, list)) for row in rows)]
    for column in columns or names:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns or names))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse `a.b=c` pairs into dotted path -> YAML value (`2` is an int, `"2"` a string, `[1, 2]` a list)."""
    parsed = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise click.UsageError(f"--set must be KEY=VALUE, but got {assignment!r}")
        try:
            parsed[path] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError:
            parsed[path] = value
    return parsed


def without_effect(*flags: str, note: str) -> Callable[[Any], Any]:
    """A flag of Azure's client that changes nothing here, which is said when it is given."""

    def say(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            stderr.print(f"note: {flags[0]} has no effect: {note}", markup=False, soft_wrap=True)

    return click.option(*flags, is_flag=True, hidden=True, expose_value=False, callback=say)


def run(command: click.Command, args: Sequence[str] | None = None, prog_name: str = "clearsight") -> int:
    """Run a command as a user would; return the exit code.

    No traceback for an error raised on purpose, nor for what the operating system refuses.
    """
    try:
        result = command.main(args=args, prog_name=prog_name, standalone_mode=False)
        return result if isinstance(result, int) else 0  # `ctx.exit(code)` arrives as a result
    except click.exceptions.Abort:
        stderr.print("interrupted")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ClearsightError as error:
        stderr.print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        stderr.print(f"error: {os_error_message(error)}", markup=False, soft_wrap=True)
        return 1
