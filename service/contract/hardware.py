"""What this machine's processor can do, as far as both halves must agree on it.

It knows nothing about models and imports no torch.
"""

from pathlib import Path


def computes_in_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16. Emulated on AVX2 it measured 1.5 to 4 times slower than float32."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return any(flag in text for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def compute_alone() -> None:
    """Let torch and FAISS compute in the calling thread alone, from now on.

    For one small question a second thread gains nothing and waits for every busy core: it doubles the slowest answers.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="openmp")  # OpenMP keeps the number for each thread
