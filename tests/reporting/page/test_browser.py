"""The page in headless Chromium: sorting, filters, tooltips and keys work, without an error and at 375 px too."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from epanns.reporting.page.page import report_page
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import rows_by_block

pytestmark = pytest.mark.slow

# Opens the page in a frame of a given width, uses it as a reader does, and leaves what it found in the document.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="frame" src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="found"></pre>
<script>
document.getElementById("frame").onload = (event) => {
  const frame = event.target.contentWindow, page = frame.document, found = {};
  const table = page.querySelector("table");
  const column = (name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
  const cells = (name) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => row.cells[column(name)].textContent);
  const click = (name) => table.tHead.rows[0].cells[column(name)].querySelector("button").click();
  const input = (element, value) => {
    if (element.type === "checkbox") element.checked = value; else element.value = value;
    element.dispatchEvent(new frame.Event("input", { bubbles: true }));
  };
  found.before = cells("mAP fine-tuned");
  click("mAP fine-tuned"); found.falling = cells("mAP fine-tuned");
  click("mAP fine-tuned"); found.rising = cells("mAP fine-tuned");
  found.ariaSort = [...page.querySelectorAll("[aria-sort]")].map((head) => [head.textContent, head.ariaSort]);
  click("Parameters"); found.parameters = cells("Parameters");
  click("Criterion"); found.criteria = cells("Criterion");

  const tools = page.querySelector(".tools");
  const [words, front] = [tools.querySelector("[type=search]"), tools.querySelector("[type=checkbox]")];
  const status = () => [tools.querySelector("output").textContent,
    page.querySelector(".chart svg").querySelectorAll(".point:not(.filtered)").length];
  input(words, "L1 0.25"); found.words = status();
  input(words, "nothing"); found.none = status();
  input(words, "");
  const select = [...tools.querySelectorAll("label")].find((label) => label.textContent.startsWith("Criterion"))
    .querySelector("select");
  input(select, "=unpruned"); found.choice = [cells("Criterion"), ...status()];
  input(select, ""); input(front, true); found.front = [cells("Criterion"), ...status()];
  input(front, false);

  const svg = page.querySelector(".chart svg"), tooltip = page.getElementById("tooltip");
  const point = [...svg.querySelectorAll(".point")].find((each) => each.dataset.row === "2");
  point.scrollIntoView({ block: "center" });
  const box = point.querySelector(".mark").getBoundingClientRect();
  const at = { bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  found.atMark = page.elementFromPoint(at.clientX, at.clientY).closest(".point") !== null;
  point.querySelector(".mark").dispatchEvent(new frame.PointerEvent("pointermove", at));
  const place = tooltip.getBoundingClientRect();
  found.tooltip = [tooltip.hidden, tooltip.textContent];
  found.tooltipInside = place.left >= 0 && place.right <= frame.innerWidth && place.bottom <= frame.innerHeight;
  found.chosenRow = page.querySelector("tr.chosen")?.id;
  svg.dispatchEvent(new frame.PointerEvent("pointerleave"));
  found.tooltipGone = tooltip.hidden;
  svg.focus();
  const press = (key) => svg.dispatchEvent(new frame.KeyboardEvent("keydown", { key, cancelable: true }));
  press("ArrowRight"); found.firstByKey = tooltip.textContent.split("\\n")[0];
  press("ArrowRight"); found.secondByKey = tooltip.textContent.split("\\n")[0];
  press("Escape"); found.escaped = tooltip.hidden;

  const root = page.documentElement;
  found.pageWidth = [root.scrollWidth, root.clientWidth];
  found.width = frame.innerWidth;
  found.smallest = Math.min(...[...page.querySelectorAll("p, td, th, li, text")]
    .filter((each) => each.textContent && each.getClientRects().length)
    .map((each) => each.closest("svg")
      ? parseFloat(frame.getComputedStyle(each).fontSize) * each.closest("svg").clientWidth / 440
      : parseFloat(frame.getComputedStyle(each).fontSize)));
  found.requests = frame.performance.getEntriesByType("resource").length;
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = os.environ.get("EPANNS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed; install it, or set EPANNS_CHROMIUM to its path")
    return found


def opened(chromium: str, folder: Path, records, width: int) -> dict:
    """Write the page, use it in a frame of some width, and return what the harness found."""
    rows = rows_by_block(records)
    (folder / "report.html").write_text(report_page(rows, records, quoted=quoted_rows(), files=["table.md"]))
    (folder / "harness.html").write_text(HARNESS.replace("WIDTH", str(width)))
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--window-size=1400,1000"]
    command += ["--enable-logging=stderr", "--v=0", "--dump-dom", (folder / "harness.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    (text,) = re.findall('<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr[-2000:]
    return json.loads(unescape(text))


@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_sorts_filters_and_names_the_trial_of_a_mark(chromium, tmp_path, records, width):
    found = opened(chromium, tmp_path, records, width)
    assert found["width"] == width
    assert found["before"] == ["–", "0.830 ± 0.014", "0.830 ± 0.028", "0.810 ± 0.028"]
    assert [text[:5] for text in found["falling"]] == ["0.830", "0.830", "0.810", "–"]
    assert [text[:5] for text in found["rising"]] == ["0.810", "0.830", "0.830", "–"]  # unknown scores stay last
    assert found["ariaSort"] == [["mAP fine-tuned", "ascending"]]
    assert [text[:6] for text in found["parameters"]] == ["5.00 M", "5.00 M", "3.00 M", "1.50 M"]
    assert found["criteria"] == ["l1", "l1", "unpruned", "unpruned, trained on"]
    assert found["words"] == ["1 of 4 rows", 1]
    assert found["none"] == ["0 of 4 rows", 0]
    assert found["choice"] == [["unpruned"], "1 of 4 rows", 1]
    assert found["front"][0] == ["l1", "l1"]
    assert found["atMark"]
    assert found["tooltip"] == [
        False,
        "Cnn14 × 0.25, l1, 25 % removed, 300 iterations\nmAP 0.8300 ± 0.0283, fine-tuned\n"
        "3.00 M parameters, 900 M MACs\ntrials l1-0.25-0, l1-0.25-1",
    ]
    assert found["tooltipInside"]
    assert found["chosenRow"] == "row-2"
    assert found["tooltipGone"]
    assert found["firstByKey"] == "Cnn14 × 0.25, l1, 50 % removed, 300 iterations"
    assert found["secondByKey"] == "Cnn14 × 0.25, l1, 25 % removed, 300 iterations"
    assert found["escaped"]
    assert found["requests"] == 0


@pytest.mark.parametrize("width", [375, 320])
def test_a_phone_scrolls_downwards_only_and_can_be_read(chromium, tmp_path, records, width):
    long = [replace(record, dataset="x" * 150, protocol="protocol " * 30, name="n" * 90) for record in records]
    found = opened(chromium, tmp_path, long, width)
    content, room = found["pageWidth"]
    assert content <= room <= width
    assert found["smallest"] >= 9


def test_no_text_of_a_record_becomes_markup(chromium, tmp_path, records):
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    made = [replace(record, dataset=hostile, name=hostile if record.seed else "") for record in records]
    assert opened(chromium, tmp_path, made, 1280)["requests"] == 0
