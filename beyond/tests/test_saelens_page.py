"""beyond/saelens.md: every block of Python runs, and prints what the page says that it prints.

.venv-beyond/bin/pytest beyond/tests/test_saelens_page.py            about four minutes
.venv-beyond/bin/python beyond/tests/test_saelens_page.py            write the outputs anew
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "saelens.md"
NUMBER = r"\d+(?:[.,]\d+)*"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def run(page: str) -> list[tuple[str, str]]:
    """For each block of Python, in one namespace and an empty folder: (what it printed, said)."""
    namespace, outputs, here = {}, [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, (source, said) in enumerate(BLOCK.findall(page)):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(source, f"{PAGE.name}, block {number + 1}", "exec"), namespace)
                outputs.append((printed.getvalue(), said))
        finally:
            os.chdir(here)
    return outputs


@pytest.mark.slow
def test_every_block_runs_and_prints_what_the_page_says():
    """A block under which the page shows no output is only run."""
    for printed, said in run(PAGE.read_text(encoding="utf-8")):
        if not said:
            continue
        assert re.split(NUMBER, printed) == re.split(NUMBER, said)
        for now, then in zip(re.findall(NUMBER, printed), re.findall(NUMBER, said), strict=True):
            # counts exactly; measurements within 5 %, as another processor may round otherwise
            close = abs(float(now) - float(then)) <= 0.05 * float(then) + 1e-3
            assert close if "." in then else now == then, f"{then} is now {now} in:\n{printed}"


def test_every_number_in_the_text_stands_in_a_block():
    page = PAGE.read_text(encoding="utf-8")
    blocks = " ".join(re.findall(r"```.*?```", page, re.DOTALL))
    # code, addresses, and names with a number in them, such as float16, say nothing measured
    text = re.sub(r"```.*?```|\]\(.*?\)|arXiv [\d.]+|[a-z]+\d+", "", page, flags=re.DOTALL)
    known = {float(n.replace(",", "").rstrip(".")) for n in re.findall(NUMBER, blocks)}
    known |= {float(n) for n in re.findall(r"\d+e-\d+", blocks)}
    for number in re.findall(NUMBER, text):
        assert float(number.replace(",", "")) in known, f"{number} is printed by no block"


def main() -> None:
    import conftest  # noqa: F401, one thread and no progress bars, as in the test

    sys.path.insert(0, str(PAGE.parents[1]))  # as pytest.ini does
    page = PAGE.read_text(encoding="utf-8")
    outputs = iter(run(page))

    def with_output(block: re.Match) -> str:
        printed = next(outputs)[0]
        shown = f"\n```text\n{printed}```\n" if printed else ""
        return f"```python\n{block.group(1)}```\n{shown}"

    PAGE.write_text(BLOCK.sub(with_output, page), encoding="utf-8")


if __name__ == "__main__":
    main()
