"""Kinds of measurement, one module each; they implement `benchmarks.experiment.Kind`."""
