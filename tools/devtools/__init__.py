"""Tools of the developers, no part of what is installed: benchmarks, faults under load, fuzzing. `tools/bench`,
`tools/chaos` and `tools/fuzz` start them.
"""
