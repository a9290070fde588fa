"""Loads the models of a run: what is trained, and what it is compared with. LoRA or every weight.

It knows nothing about pairs or losses.
"""

from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.engine import Adapter
from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import Policy
from trainer.methods.run import MethodConfig, Run
from trainer.sft import with_padding

_REFERENCE = "ref"  # the name under which TRL looks for an adapter to compare with


def to_train(run: Run) -> Any:
    """The model that a trainer wraps: with LoRA the base without adapter (see `adapter_config`), else all of it."""
    return _base(run.policy) if run.config.lora_rank else whole(run.policy)


def adapter_config(run: Run) -> Any:
    """The LoRA adapter that a trainer puts on `to_train`; None without LoRA.

    Raises:
        ConfigurationError: The policy is an adapter of another rank or alpha than the configuration says.
    """
    config = run.config
    if not config.lora_rank:
        return None
    if run.policy.adapter is not None:
        _refuse_another_shape(PeftConfig.from_pretrained(run.policy.adapter.path), run.policy, config)
    return LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def tokenizer(policy: Policy) -> Any:
    """The tokenizer as transformers knows it; trainers only pad by it."""
    return with_padding(AutoTokenizer.from_pretrained(policy.directory))


def set_start(model: Any, run: Run) -> None:
    """Bring the wrapped model to the weights of the policy, and the reference's adapter beside them if it has one."""
    if not run.config.lora_rank:
        return
    if run.policy.adapter is not None:
        _load_adapter(model, run.policy.adapter)
    if run.reference.adapter is not None and _same_base(run.policy, run.reference):
        model.load_adapter(run.reference.adapter.path, adapter_name=_REFERENCE, is_trainable=False)
        # It names its base by version; peft would ask a hub for that whenever it saves a checkpoint.
        model.peft_config[_REFERENCE].base_model_name_or_path = str(run.reference.model_directory)


def reference_model(run: Run) -> Any:
    """The reference as a model of its own, frozen; None where it is the trained model with another adapter or none."""
    if run.config.lora_rank and _same_base(run.policy, run.reference):
        return None
    return whole(run.reference).requires_grad_(False).eval()


def whole(policy: Policy) -> Any:
    """All weights of a policy in float32, its adapter merged."""
    model = _with_adapter(_base(policy), policy.adapter)
    return model.merge_and_unload().requires_grad_(True) if policy.adapter else model  # peft froze the base


def fresh(policy: Policy) -> Any:
    """A policy loaded as an engine would, its adapter beside the base, frozen, in float32."""
    model = _with_adapter(_base(policy), policy.adapter)
    return model.requires_grad_(False).eval()


def same(one: Policy, other: Policy) -> bool:
    """Whether two policies are the same version on disk."""
    return one.version == other.version and _same_files(one.directory, other.directory)


def without_adapter(model: Any) -> Any:
    """A context in which a model with adapters answers as its base does."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def _base(policy: Policy) -> Any:
    return AutoModelForCausalLM.from_pretrained(policy.model_directory, dtype=torch.float32)


def _with_adapter(model: Any, adapter: Adapter | None) -> Any:
    return PeftModel.from_pretrained(model, adapter.path) if adapter else model


def _load_adapter(model: Any, adapter: Adapter) -> None:
    result = set_peft_model_state_dict(model, load_peft_weights(adapter.path, device="cpu"))
    absent = [key for key in result.missing_keys if "lora_" in key and f".{_REFERENCE}." not in key]
    if result.unexpected_keys or absent:
        raise ArtifactError(
            f"The adapter {adapter.name} has other modules than training gives it. Train from its base instead."
        )


def _refuse_another_shape(found: Any, policy: Policy, config: MethodConfig) -> None:
    if (found.r, found.lora_alpha) != (config.lora_rank, config.lora_alpha):
        raise ConfigurationError(
            f"{policy.version} is an adapter of rank {found.r} and alpha {found.lora_alpha}; the configuration says "
            f"{config.lora_rank} and {config.lora_alpha}. Give its own, or train from its base."
        )


def _same_base(one: Policy, other: Policy) -> bool:
    return _same_files(one.model_directory, other.model_directory)


def _same_files(one: Any, other: Any) -> bool:
    if one.resolve() == other.resolve():
        return True
    sealed = (one / MANIFEST).is_file() and (other / MANIFEST).is_file()
    return sealed and manifest_sha256(one) == manifest_sha256(other)
