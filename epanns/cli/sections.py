"""Commands with many options: their help shows them in sections."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from epanns.cli.command import EpannsCommand


class SectionedCommand(EpannsCommand):
    """A command whose help shows options by what they are for; those in no section stand last, under "Options".

    Args:
        sections: Title -> names of options as people type them, without the dashes, in the order shown.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = {name for item in self.params for name in item.opts}
        unknown = [name for names in sections.values() for name in names if f"--{name}" not in known]
        assert not unknown, f"{self.name}: the sections of its help name options that it has not: {unknown}"
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, then all other options."""
        options = {name: item for item in self.get_params(ctx) if isinstance(item, click.Option) for name in item.opts}
        shown = {title: [options[f"--{name}"] for name in names] for title, names in self.sections.items()}
        placed = {item for items in shown.values() for item in items}
        rest = [item for item in dict.fromkeys(options.values()) if item not in placed]
        for title, items in (*shown.items(), ("Options", rest)):
            records = [item.get_help_record(ctx) for item in items]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
