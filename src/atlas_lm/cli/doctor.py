"""``atlas-lm doctor``: is everything here that a run needs, and does every half learn?"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.cli.device import device
from atlas_lm.cli.doctor_checks import Check, all_checks
from atlas_lm.runtime.errors import InputError

HELP = (
    "Check the installation, the devices, memory, extras and weights; or, with --gradients, make "
    "one toy step of a recipe and show which modules learn."
)
EXAMPLE = "atlas-lm doctor\n  atlas-lm doctor --gradients runs/mine/recipe.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe to try, and overrides."""
    parser.add_argument(
        "--gradients", metavar="RECIPE", help="make one toy step of this recipe; nothing is saved"
    )
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="of the recipe")
    parser.add_argument(
        "--device", type=device, default="cpu", help="of the toy step (default: cpu)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Look. Exit code 2 where something is broken, or a half that should learn does not."""
    if args.gradients:
        from atlas_lm.cli.doctor_gradients import run_gradients

        return run_gradients(args)
    if args.overrides:
        raise InputError(f"{args.overrides[0]!r}: overrides are for --gradients RECIPE")
    checks = all_checks()
    if args.json:
        print_json({"well": well(checks), "checks": [dataclasses.asdict(one) for one in checks]})
    else:
        _show(checks)
    return 0 if well(checks) else 2


def well(checks: list[Check]) -> bool:
    """Return whether nothing is broken; what is merely absent is no fault."""
    return all(check.state != "broken" for check in checks)


def _show(checks: list[Check]) -> None:
    marks = {"fine": "[green]✓[/]", "absent": "[yellow]·[/]", "broken": "[red]✗[/]"}
    table = Table("", "what", "", box=None, show_header=False)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            table.add_row("", f"[bold]{group}[/]", "")
        table.add_row(marks[check.state], check.name, _detail(check))
    console = Console()
    console.print(table)
    broken = [check for check in checks if check.state == "broken"]
    if broken:
        console.print(f"{len(broken)} broken: {', '.join(check.name for check in broken)}")
    else:
        console.print("all is well; atlas-lm selftest trains a tiny world end to end")


def _detail(check: Check) -> Any:
    from rich.text import Text

    text = Text(check.detail)
    if check.remedy:
        text.append(f"; {check.remedy}", style="yellow")
    return text
