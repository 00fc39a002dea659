"""Each `clearsight …` command that the documentation shows is one that the program takes. Nothing is run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from clearsight.cli import root

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(clearsight [^`]+)`")


def commands_of(page: str) -> Iterator[tuple[str, bool]]:
    """Each command line, and whether it is complete: a line of a shell block, not a mention inside a sentence."""
    for language, block in _FENCED.findall(page):
        if language in ("", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"(?:[A-Z_]+=\S+ )*(?:\$ )?(?:\w+=\$\()?(clearsight [a-z].*)", line.strip())
                if found:
                    yield found[1], "──" not in block  # not in a drawing
    for mention in _INLINE.findall(_FENCED.sub("", page)):
        yield " ".join(mention.split()), False


def arguments_of(line: str) -> list[str]:
    """The arguments of `clearsight`, up to what the shell takes: a comment, a pipe, `&`, a redirection, a `)`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.commenters = "#"
    lexer.wordchars += "…=[]{}@:,%+^!$"
    arguments: list[str] = []
    for token in lexer:
        if token and set(token) <= set("();|&<>"):
            break
        arguments.append(token)
    return arguments[1:]


def check(arguments: list[str], is_complete: bool) -> None:
    """Raises a click.UsageError, or AssertionError when an option that must be given is not."""
    command: click.Command = root
    context = click.Context(root, info_name="clearsight")
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        _, found, _ = command.resolve_command(context, [name])
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    assert not (is_complete and isinstance(command, click.Group) and not rest), f"{command.name} needs a verb"
    given, _, _ = command.make_parser(context).parse_args(list(rest))
    for parameter in command.params:
        name = parameter.name or ""
        is_given = given.get(name) not in (None, (), [])
        if is_complete:
            assert is_given or not parameter.required, f"{parameter.opts[-1]} must be given"
        if is_given and isinstance(parameter, click.Option) and isinstance(parameter.type, click.Choice):
            values = given[name] if isinstance(given[name], (list, tuple)) else [given[name]]
            for value in values:
                parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_is_one_that_the_program_takes(page: Path) -> None:
    wrong = []
    for line, is_complete in commands_of(page.read_text()):
        if "…" in line or re.search(r"\w\|\w", line):  # short for several commands
            continue
        try:
            check(arguments_of(line), is_complete)
        except click.BadOptionUsage as error:  # an option without its value
            if is_complete:
                wrong.append(f"{line}: {error.format_message()}")
        except (click.ClickException, AssertionError) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else error
            wrong.append(f"{line}: {message}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    page = "```bash\nKEY=$(clearsight job list -o tsv)  # all\nclearsight serve &\n```\nSee `clearsight job list`.\n"
    assert [(arguments_of(line), whole) for line, whole in commands_of(page)] == [
        (["job", "list", "-o", "tsv"], True),
        (["serve"], True),
        (["job", "list"], False),
    ]
    for line in ("job lst", "job list --no-such-option", "job list -o yml-or-so", "job show"):
        with pytest.raises((click.UsageError, AssertionError)):
            check(line.split(), is_complete=True)
    assert sum(1 for page_file in PAGES for _ in commands_of(page_file.read_text())) > 40
