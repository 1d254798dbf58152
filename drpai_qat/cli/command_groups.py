"""`drpai-qat --help`: the commands in the order in which a model meets them, one example each."""

from __future__ import annotations

import difflib

import click

GROUPS: dict[str, dict[str, str]] = {
    "From a model to a network": {
        "inspect": "drpai-qat inspect model.onnx",
        "compile": "drpai-qat compile model.onnx -a -m pytorch -o out/model",
        "handover": "drpai-qat handover model.onnx -a -m pytorch -o handover",
    },
    "What the network computes": {
        "run": "drpai-qat run out/model",
        "evaluate": "drpai-qat evaluate out/model --data images/ --against model.onnx",
        "compare": "drpai-qat compare model.onnx out/model",
        "profile": "drpai-qat profile out/model",
    },
    "On to the board": {"bundle": "drpai-qat bundle out/model -o board"},
    "This machine": {"doctor": "drpai-qat doctor --target rzv2h"},
}
"""Commands by heading, each with a line to type."""


class GroupedCommands(click.Group):
    """Lists its commands by heading, and names the nearest one where there is none of that name."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Group."""
        for title, examples in GROUPS.items():
            there = {name: self.commands[name] for name in examples if name in self.commands}
            if there:
                with formatter.section(title):
                    formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in there.items()])
        with formatter.section("Examples"):
            for examples in GROUPS.values():
                for name, example in examples.items():
                    if name in self.commands:
                        formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click.Group."""
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            if name.endswith(".onnx"):
                ctx.fail(f"{name!r} is no command: to compile it, type `drpai-qat compile {name}`")
            near = difflib.get_close_matches(name, self.commands, n=1, cutoff=0.5)
            ctx.fail(f"{name!r} is no command{f': did you mean {near[0]}?' if near else ''}")
        return super().resolve_command(ctx, args)
