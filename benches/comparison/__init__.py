"""The parts of `benches/compare`: workloads, one measurement, the books of a run, tables, plots, the documentation's page."""
