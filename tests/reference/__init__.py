"""Plain implementations that the tests and benchmarks compare with."""
