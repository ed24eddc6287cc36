"""The tables of packages are those of setup.cfg."""

import configparser
import re
from pathlib import Path

from epanns.packages import CORE, EXTRAS

SETUP = configparser.ConfigParser()
SETUP.read(Path(__file__).parents[1] / "setup.cfg")


def names(requirements: str) -> list[str]:
    return re.findall(r"^([\w-]+)", requirements, re.MULTILINE)


def test_the_core_packages_are_those_that_are_installed():
    assert list(CORE) == names(SETUP["options"]["install_requires"].strip())


def test_the_extras_are_those_that_can_be_installed():
    extras = dict(SETUP["options.extras_require"])
    assert extras.pop("test") and extras.pop("docs")  # for developers
    assert {name: list(extra.packages) for name, extra in EXTRAS.items()} == {
        name: names(packages.strip()) for name, packages in extras.items()
    }


def test_constraints_pin_the_lowest_release_of_every_core_package():
    lowest = (Path(__file__).parents[1] / "constraints" / "lowest.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", lowest, re.MULTILINE))
    required = dict(re.findall(r"^([\w-]+)>=([\d.]+)", SETUP["options"]["install_requires"].strip(), re.MULTILINE))
    assert list(pinned) == list(CORE) == list(required)
    for name, release in required.items():
        assert re.fullmatch(rf"{re.escape(release)}(\.0)*", pinned[name]), (
            f"{name}>={release} is pinned to {pinned[name]}"
        )
