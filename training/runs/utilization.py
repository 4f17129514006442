"""How much of a device a run uses, where JAX or its data sheet tells."""

import jax

# Dense bfloat16 operations a second of one device, as JAX calls it, from the makers' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def device_metrics(flops_per_second: float, num_devices: int) -> dict[str, float]:
    """What metrics.jsonl says of the devices: nothing of those that nothing is known of.

    mfu is the share of the devices' bfloat16 peak that the model's mathematics takes (PaLM,
    2204.02311, appendix B); peak_memory_bytes the most memory that the first local device has held.
    """
    device = jax.local_devices()[0]
    metrics = {}
    # The longest name that fits: "TPU v5 lite" is no "TPU v5", "H100 PCIe" slower than others.
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    if kinds:
        peak = PEAK_FLOPS[max(kinds, key=len)] * num_devices
        metrics["mfu"] = round(flops_per_second / peak, 4)
    memory = device.memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        metrics["peak_memory_bytes"] = memory["peak_bytes_in_use"]
    return metrics
