"""A command group that imports a command's module when the command is used, not to list it."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class CommandEntry(NamedTuple):
    """One command or group of commands, as `--help` lists it."""

    name: str
    target: str
    """Where it is defined: ``module:attribute``, a function or a `command_group`."""
    summary: str
    """The first sentence of its help; a test compares the two."""
    hidden: bool = False
    has_logger: bool = True
    """Whether its modules log with structlog, which takes as long to import as a call to a node. A test checks it."""


def command_group(summary: str) -> typer.Typer:
    """Return a group to register subcommands with."""
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def lazy_group(entries: Iterable[CommandEntry]) -> type[TyperGroup]:
    """Return the class of a group that has these commands."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's
            super().__init__(**attributes)
            self.commands = {entry.name: _Unloaded(entry) for entry in entries} | dict(self.commands)

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - a context of the click in typer
            if not args or args[0].startswith("-"):
                return super().parse_args(ctx, args)
            # No option of the group is given: typer would import pydantic to validate the absent ones.
            params, self.params, self.add_help_option = self.params, [], False
            try:
                return super().parse_args(ctx, args)
            finally:
                self.params, self.add_help_option = params, True

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:  # noqa: ANN401
            name, command, rest = super().resolve_command(ctx, args)
            if isinstance(command, _Unloaded):
                command = command.load()
                self.commands[str(name)] = command
            return name, command, rest

    return LazyGroup


class _Command(TyperCommand):
    """A command that first calls the function in its context, if there is one: it configures the logs."""

    has_logger = True

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - a context of the click inside typer
        if ctx.obj is not None:
            ctx.obj(has_logger=self.has_logger)
        return super().invoke(ctx)


class _CommandWithoutLogger(_Command):
    has_logger = False


class _Unloaded(TyperCommand):
    """A command whose module is not imported yet: it has a name and a summary, enough to be listed."""

    def __init__(self, entry: CommandEntry) -> None:
        super().__init__(entry.name, help=entry.summary, hidden=entry.hidden, rich_markup_mode=None)
        self.entry = entry

    def load(self) -> Any:  # noqa: ANN401 - a class of the click inside typer
        """Import the module, and return the command."""
        module, _, attribute = self.entry.target.partition(":")
        command_class = _Command if self.entry.has_logger else _CommandWithoutLogger
        target: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            for command in target.registered_commands:
                command.cls = command_class
            group = typer.main.get_group(target)
            group.name = self.entry.name
            return group
        app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        app.command(self.entry.name, cls=command_class)(target)
        return typer.main.get_command(app)
