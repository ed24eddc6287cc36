"""Write the class map from FSD50K to AudioSet: ``python class_map.py ontology.json``.

FSD50K's classes are classes of AudioSet's ontology, of which AudioSet labels 527. A class that is among them has the
row with its identifier. Of the others, those with descendants among the 527 have a row for each descendant, as FSD50K's
labels are propagated up the hierarchy; those without are left out.

The ontology is https://github.com/audioset/ontology (CC BY-SA 4.0).
"""

import csv
import json
import sys
from pathlib import Path

from epanns.labels import audioset, fsd50k

# Descendants of a class whose clips in FSD50K's dev.csv mostly lack its label: Squeak and Tap have other ancestors too
# (24 % and 6 % have Domestic sounds), as has Clapping (10 % have Human group actions).
NOT_PROPAGATED = ("/m/07q6cd_", "/m/07qcpgn", "/m/0l15bq")


def rows_of(ontology: Path) -> list[tuple[str, str, str]]:
    """Return the rows: class of FSD50K, identifier and name of the class of AudioSet."""
    children = {entry["id"]: entry["child_ids"] for entry in json.loads(ontology.read_text(encoding="utf-8"))}
    name_of = dict(zip(audioset().mids, audioset().names, strict=True))

    def below(mid: str) -> set[str]:
        return {mid}.union(*map(below, children[mid]))

    rows = []
    for name, mid in zip(fsd50k().names, fsd50k().mids, strict=True):
        found = {mid} if mid in name_of else below(mid) & name_of.keys() - set(NOT_PROPAGATED)
        rows += [(name, each, name_of[each]) for each in audioset().mids if each in found]
    return rows


if __name__ == "__main__":
    with (Path(__file__).parent / "fsd50k_to_audioset.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("category", "mid", "display_name"))
        writer.writerows(rows_of(Path(sys.argv[1])))
