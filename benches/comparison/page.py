"""The documentation's pages: the part between a command's marks is what its last run for the record printed."""

import shutil

from common import REPOSITORY

from . import plots, tables

FOLDER = REPOSITORY / "docs/benchmarks"
PAGE = FOLDER / "README.md"
PERFORMANCE = FOLDER / "performance.md"


def write_results(record, directory):
    """The files of a run: the record, its tables and its plots."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "compare.md").write_text(tables.report(record))
    write_record(record, directory)


def write_record(record, directory):
    record.write(directory / "compare.json")
    for name, drawing in plots.all_plots(record).items():
        (directory / name).write_text(drawing)


def write_docs(record):
    """Puts the run into the documentation, in the place of the last one."""
    results = FOLDER / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    write_record(record, results)
    fill("benches/compare", body(record))


def fill(command, text, page=PAGE):
    """Puts a text between the command's marks in a page."""
    begin, end = (f"<!-- {command} --write-docs: {mark} -->\n" for mark in ("begin", "end"))
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


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
