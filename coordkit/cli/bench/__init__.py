"""`coordkit bench`: measured beside a floor, and judged by a checker, in one run."""
