"""What the fork server imports before it forks an engine's core: vLLM's part of the core, beside the service's own.

Importing it binds the importing process to its parent, so only the fork server may. It is no engine.
"""

import gc

from service.engines.lifeline import bind_to_parent

bind_to_parent()
gc.disable()  # nothing of an import is garbage, and looking for it took a fifth of the time

import vllm.v1.engine.core  # noqa: E402
import vllm.v1.worker.cpu_model_runner  # noqa: E402
import vllm.v1.worker.cpu_worker  # noqa: E402, F401

from service.engines import _cpu_lora, _cpu_penalties, _cpu_sampler  # noqa: E402

_cpu_lora.install()
_cpu_penalties.install()
_cpu_sampler.install()

gc.freeze()  # the cores share these pages as long as no collection touches them
gc.enable()
