"""Flags of XLA under which the programs of tests, which run once, are compiled in less time."""

from importlib.metadata import version

# LLVM takes a sixth of the time when it leaves programs as they are. What XLA makes of a program
# before that, which the tests of HLO read, is the same.
FAST = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # Later versions know no such flag, and end the process.
        "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
    ]
)


def xla_flags(devices: int) -> str:
    """Value of XLA_FLAGS for a process that has so many host devices."""
    return f"{FAST} --xla_force_host_platform_device_count={devices}"
