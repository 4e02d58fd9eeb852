"""The record of a run: what was measured where, with every round. Kept as JSON."""

import collections
import json
import statistics

DECIMALS = 3

# Spread of a figure over the rounds.
Spread = collections.namedtuple("Spread", "median least most")


def spread(values):
    return Spread(statistics.median(values), min(values), max(values)) if values else None


class Record:
    """All rounds of a run: circumstances, peers, workloads, and rows with figures or with a reason why they are void."""

    def __init__(self, circumstances, peers, workloads, rows=()):
        # Peers: name → label, without, in_nginx (whether nginx is the server). Workloads: name → description. Both in the
        # order of the tables.
        self.circumstances, self.peers, self.workloads, self.rows = circumstances, peers, workloads, list(rows)

    @classmethod
    def read(cls, path):
        return cls(**json.loads(path.read_text()))

    def write(self, path):
        """JSON with a line for each measurement."""
        head = {name: value for name, value in vars(self).items() if name != "rows"}
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows)
        path.write_text(f'{json.dumps(head, indent=1, ensure_ascii=False).removesuffix("}").rstrip()},\n "rows": [\n{rows}\n]}}\n')

    def add(self, number, peer, workload, connections, outcome):
        """Notes a measurement: its figures, or the exception that says why there are none."""
        row = {"round": number, "peer": peer, "workload": workload, "connections": connections}
        self.rows.append(row | (rounded(outcome) if isinstance(outcome, dict) else {"void": str(outcome)}))

    def values(self, figure, peer, workload, connections):
        """A figure in each round that is not void. `figure` is a name, or a function of a row."""
        take = figure if callable(figure) else lambda row: row[figure]
        return [take(row) for row in self.rows if "void" not in row and take(row) is not None
                and (row["peer"], row["workload"], row["connections"]) == (peer, workload, connections)]

    def spread(self, figure, peer, workload, connections):
        return spread(self.values(figure, peer, workload, connections))

    def voids(self):
        return [row for row in self.rows if "void" in row]

    def connections(self, workload):
        return sorted({row["connections"] for row in self.rows if row["workload"] == workload})

    def usual_connections(self):
        """The number of connections that every workload has, or the one in the middle of the first workload's."""
        each = [set(self.connections(workload)) for workload in self.workloads]
        shared = sorted(set.intersection(*each) or each[0])
        return shared[len(shared) // 2]


def rounded(figures):
    """Figures with no more decimals than their measurement bears."""
    return {name: round(figure, DECIMALS) if isinstance(figure, float) else figure for name, figure in figures.items()}


def memory(row):
    """PSS of the server's tree in MiB; None where it is not known."""
    return row["pss"] / 2**20 if row["pss"] is not None else None
