"""Everything that an accelerator should answer: ``python -m benchmarks.accelerator``.

In parts that can be run singly; every figure is saved as soon as it is there.
"""
