"""Choice of the device, and of the fastest precision that its hardware supports."""

import os

import torch

from segstudy.errors import ConfigError

NAMES = {
    "cpu": "CPU",
    "cuda": "GPU",
    "mps": "Apple's GPU",
    "32-true": "float32",
    "bf16-mixed": "bf16",
    "16-mixed": "fp16",
}
"""Short names of Lightning's devices and precisions."""

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The type to which each mixed precision converts."""


def describe_device(accelerator: str, precision: str, reason: str) -> str:
    """What `choose_device` returned, in one line: CPU, float32 (no bf16 in hardware)."""
    return f"{NAMES.get(accelerator, accelerator)}, {NAMES.get(precision, precision)} ({reason})"


def choose_device(accelerator: str, precision: str) -> tuple[str, str, str]:
    """(accelerator, precision, reason), with "auto" resolved. Raises ConfigError if the machine has no such device."""
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, is_there in is_available.items() if is_there]
    chosen = available[0] if accelerator == "auto" else {"gpu": "cuda"}.get(accelerator, accelerator)
    if chosen not in available:
        found = ", ".join(available)
        raise ConfigError(f"trainer.accelerator={accelerator}: not on this machine (found: {found}); try trainer=auto")
    if precision != "auto":
        return chosen, precision, "as set"
    return chosen, *choose_precision(chosen)


def choose_precision(accelerator: str) -> tuple[str, str]:
    """Lightning's precision for an accelerator ("cuda", "mps" or "cpu"), and the reason in one line.

    bf16 only where the hardware multiplies it: emulated bf16 is slower than float32.
    """
    if accelerator == "cuda":
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        if capability >= (8, 0):
            return "bf16-mixed", name
        return "16-mixed", f"{name}, no bf16 in hardware"
    if accelerator == "mps":
        return "32-true", "as always there"
    found = [f for f in ("amx_bf16", "avx512_bf16") if f in cpu_flags()]
    if not found:
        return "32-true", "no bf16 in hardware"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if limit not in ("DEFAULT", "ALL") and not any(word in limit for word in ("BF16", "FP16", "AMX", "AVX10")):
        return "32-true", f"bf16 switched off by ONEDNN_MAX_CPU_ISA={limit}"
    return "bf16-mixed", found[0]


def cpu_flags() -> set[str]:
    """Instruction sets of this CPU, as the Linux kernel names them; empty on other systems."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    except OSError:
        return set()
