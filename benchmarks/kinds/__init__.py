"""What experiments can measure, a module for each kind; see `benchmarks.experiment.Kind`."""
