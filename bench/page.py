# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.page`: put the figures of bench/results into the documents, where they have a place for them.

A place is what stands between `<!-- figures: FILE -->` and `<!-- end of figures -->`.
"""

import re
from pathlib import Path

from bench import picture
from bench.targets import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results"
PAGES = (ROOT / "docs/performance.md", ROOT / "docs/performance-details.md")
TABLE = "targets.md"
PLACE = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def write_table(results: Path) -> None:
    """Write the table of all targets in all places as Markdown to `results`, if there is a place."""
    tables, machine = picture.read(results)
    if tables:
        program = machine["wasmtime (command)"]
        text = f"{machine['cpu']}, {machine['kernel']}, {program}, {machine['date'][:10]}:"
        (results / TABLE).write_text(f"{text}\n\n{markdown(tables)}\n")


def filled(text: str, results: Path) -> str:
    """A document with the figures of `results` in their places."""

    def figures(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if not (results / name).is_file():
            content = f"No figures yet: `bench/results/{name}` is missing."
        else:
            content = (results / name).read_text().rstrip("\n")
            if not name.endswith(".md"):
                content = f"```\n{content}\n```"
        return f"{begin}{content}\n{end}"

    return PLACE.sub(figures, text)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text(), RESULTS))


if __name__ == "__main__":
    main()
