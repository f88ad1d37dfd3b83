"""Mutants that no test can tell from the original, or need not: why each is as good.

A mutant is named by its module and the line that it becomes. `mutation.py` reads them.
"""

SURVIVORS: dict[tuple[str, str], str] = {}
