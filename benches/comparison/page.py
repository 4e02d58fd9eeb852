"""The documentation's page: the part between its marks is a run's tables and plots."""

import shutil

from common import REPOSITORY

from . import plots, tables

FOLDER = REPOSITORY / "docs/benchmarks"
PAGE = FOLDER / "README.md"
BEGIN, END = "<!-- benches/compare --write-docs: begin -->\n", "<!-- benches/compare --write-docs: end -->\n"


def write_results(record, directory):
    """The files of a run: the record, its tables and its plots."""
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory / "compare.json")
    (directory / "compare.md").write_text(tables.report(record))
    for name, drawing in plots.all_plots(record).items():
        (directory / name).write_text(drawing)


def write_docs(record, directory):
    """Puts the run into the documentation."""
    results = FOLDER / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    for file in sorted(directory.glob("*.svg")) + [directory / "compare.json"]:
        shutil.copy(file, results)
    PAGE.write_text(filled(PAGE.read_text(), body(record)))


def filled(page, text):
    """The page with another text between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n" + text + "\n" + END + after


def body(record):
    text = tables.report(record)
    for name in plots.all_plots(record):
        stem = name.removesuffix(".svg")
        figure, _, workload = stem.partition("-")
        image = f"![{stem.replace('-', ' ')}](results/{name})\n"
        if workload == "by-connections":
            heading = "### Requests/s of `hello` by" if figure == "rate" else "### p99 of `hello` by"
        else:
            heading = f"### {tables.title(workload)},"
        text = below(text, heading, image)
    return text + "\nAll rounds: [compare.json](results/compare.json).\n"


def below(text, heading, image):
    """The text with an image at the end of the section whose heading begins so."""
    begun = text.index(heading)
    end = text.find("\n### ", begun)
    notes = text.find("\n\n- ", begun)
    stops = [stop for stop in (end, notes) if stop >= 0]
    stop = min(stops) if stops else len(text)
    return text[:stop].rstrip("\n") + "\n\n" + image + text[stop:]
