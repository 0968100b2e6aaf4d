"""The one comparison of what a notebook's cell shows with what is saved there.

Training is chaotic: on another processor it ends elsewhere in the last digits. So all that a cell
shows is compared exactly, but for the numbers that the cell declares as measured, by tags:

    measured: L0 ±0.2             a number behind the word "L0" may differ by 0.2 from the saved one
    measured: L0                  by one unit of its last digit: 0.1 from 1.7, 1 from 10%
    measured: price off … L0 ±1   only in a line that says "price off" before

Between word and number stand only signs and spaces, and "L0 4 to 8" is measured twice. A declared
word with no number behind it is an error. Tolerances come from tests/run_alone.py.
"""

import difflib
import re

NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?"


def declared(cell: dict) -> dict[str, float | None]:
    """{word: tolerance} of a cell's tags; None is one unit of the last digit."""
    words = {}
    for tag in [tag for tag in cell["metadata"].get("tags", []) if tag.startswith("measured")]:
        if not (found := re.fullmatch(r"measured: (.+?)(?: ±([\d.]+))?", tag)):
            raise ValueError(f"expected a tag like 'measured: L0 ±0.2', got {tag!r}")
        words[found[1]] = float(found[2]) if found[2] else None
    return words


def places(word: str, text: str) -> list[tuple[int, int]]:
    """Where the numbers behind a word stand, with the spaces before them, as they may be padded."""
    word = re.escape(word).replace(r"\ …\ ", r"\b[^\n]*?\b")
    pattern = rf"(?<!\w){word}(?!\w)[^\w\n]*?( *{NUMBER})(?:%? to( *{NUMBER}))?"
    return [m.span(i) for m in re.finditer(pattern, text) for i in (1, 2) if m[i]]


def value(number: str) -> float:
    return float(number.replace(",", ""))


def settle(now: str, saved: str, words: dict[str, float | None]) -> str:
    """`now`, with each measured number that is near its saved one replaced by that."""
    for word, tolerance in words.items():
        here, there = places(word, now), places(word, saved)
        if not there:
            raise LookupError(f"expected a number behind the declared {word!r}, got {saved!r}")
        if len(here) == len(there):
            for (i, j), (k, m) in reversed([*zip(here, there, strict=True)]):
                unit = 10.0 ** -len(saved[k:m].partition(".")[2])
                if abs(value(now[i:j]) - value(saved[k:m])) <= (tolerance or unit) + 1e-9:
                    now = now[:i] + saved[k:m] + now[j:]
    return now


def shown(outputs: list[dict]) -> str:
    """What can be read of them: what was printed, HTML, the alternative texts of pictures."""
    text = ""
    for output in outputs:
        text += {"stderr": "stderr: "}.get(output.get("name"), "") + output.get("text", "")
        if output["output_type"] == "error":
            text += f"{output['ename']}: {output['evalue']}\n"
        for kind, data in sorted(output.get("data", {}).items()):
            if kind.startswith("image/"):
                data = output["metadata"].get(kind, {}).get("alt", "")
            text += f"{kind}: {data}\n"
    return text


def differences(cell: dict, outputs: list[dict]) -> list[str]:
    """Lines saved in a cell (-) and now of its outputs (+) that do not agree."""
    saved = shown(cell["outputs"])
    now = settle(shown(outputs), saved, declared(cell))
    lines = difflib.unified_diff(
        saved.splitlines(), now.splitlines(), "saved", "now", "", "", 0, ""
    )
    return [line[:500] for line in lines]


def compare_outputs(self, test: list[dict], ref: list[dict], skip_compare: object = None) -> bool:
    """nbval's one method that compares, to be put in place of its own, which knows no tolerance."""
    self.comparison_traceback = differences(self.cell, test)
    return not self.comparison_traceback
