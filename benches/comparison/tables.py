"""The tables of a record, in Markdown."""

from .record import memory

MISSING = "–"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_range(spread, form="{:,.0f}"):
    if spread is None:
        return MISSING
    median, least, most = (form.format(number) for number in spread)
    return f"{median} ({least}–{most})"


def median(spread, form="{:,.1f}"):
    return form.format(spread.median) if spread else MISSING


def report(record):
    """Everything, as a page of Markdown without a title."""
    usual = record.usual_connections()
    parts = [circumstances(record)]
    for name in record.workloads:
        parts.append(f"### {title(name)}, {usual:,} connections\n\n{sentence(record.workloads[name])}\n\n{workload(record, name, usual)}")
    if len(record.connections("hello")) > 1:
        parts.append("### Requests/s of `hello` by connections\n\n" + by_connections(record, lambda *cell: with_range(record.spread("rate", *cell))))
        parts.append("### p99 of `hello` by connections, ms\n\n" + by_connections(record, lambda *cell: median(record.spread("p99_ms", *cell), "{:,.2f}")))
    parts.append(notes(record))
    return "\n".join(part for part in parts if part)


def counted(count, thing):
    return f"{count} {thing}{'' if count == 1 else 's'}"


def sentence(words):
    return f"{words[0].upper()}{words[1:]}."


def title(name):
    return f"`{name}`"


def circumstances(record):
    run = record.circumstances
    return f"{run['environment']} Command: `{run['command']}`. Median (range) of {counted(run['rounds'], 'round')}, {run['seconds']} s each.\n"


def workload(record, name, connections):
    base = record.spread("rate", "floor", name, connections)

    def row(peer):
        cell = (peer, name, connections)
        rate = record.spread("rate", *cell)
        times = {who: f"{median(record.spread(f'{who}_user_us', *cell))} + {median(record.spread(f'{who}_system_us', *cell))}" if rate else MISSING
                 for who in ("server", "nginx")}
        if record.peers[peer]["in_nginx"]:
            times["server"] = MISSING
        return [record.peers[peer]["label"], with_range(rate), f"{rate.median / base.median:.2f}" if rate and base else MISSING,
                median(record.spread("p50_ms", *cell), "{:,.2f}"), median(record.spread("p99_ms", *cell), "{:,.2f}"), *times.values(),
                median(record.spread(memory, *cell))]

    head = ["server", "requests/s (range)", "of floor", "p50 ms", "p99 ms", "server CPU µs, user + system", "nginx CPU µs, user + system",
            "PSS MiB"]
    return table(head, [row(peer) for peer in record.peers])


def by_connections(record, cell):
    counts = record.connections("hello")
    rows = [[entry["label"], *(cell(peer, "hello", count) for count in counts)] for peer, entry in record.peers.items()]
    return table(["server", *(f"{count:,}" for count in counts)], rows)


def notes(record):
    lines = [f"- {entry['label']} has no `{name}`: {reason}." for entry in record.peers.values()
             for name, reason in entry["without"].items() if name in record.workloads]
    if any("void" not in row and row["pss"] is None for row in record.rows):
        lines.append("- PSS: only root may read that of nibiru's gateway and zygote.")
    voids = {}
    for row in record.voids():
        voids.setdefault((row["peer"], row["workload"], row["void"]), []).append(f"{row['connections']:,} (round {row['round']})")
    lines += [f"- Void: {record.peers[peer]['label']}, `{name}`, connections {', '.join(where)}: {reason}."
              for (peer, name, reason), where in voids.items()]
    return "".join(f"{line}\n" for line in lines)
