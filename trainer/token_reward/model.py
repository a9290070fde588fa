"""The reward model itself: a policy's backbone with a head on each token of a response, or on its last one.

It knows no loss and no judge. The backbone looks back only, as it was trained to, or to both sides.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from service.contract.artifact import publish, seal, verify
from service.contract.errors import ArtifactError, PromptMismatch
from service.contract.policy import Policy
from trainer.methods.pairs import file_sha256
from trainer.ppo.actor_critic import Sequences
from trainer.token_reward.losses import CLASSES

Level = Literal["token", "sentence"]
KIND = "reward_model"
_HEAD = "head.safetensors"
_PROPERTIES = "reward.json"
_AT_ONCE = 32  # responses


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What a reward model is. `level`: classes of each token, or relevance of the whole. `looks_ahead`: to both sides.

    `tokenizer`: SHA-256 of the tokenizer of the policies whose responses it reads.
    """

    level: Level
    looks_ahead: bool
    tokenizer: str


class RewardModel(nn.Module):  # type: ignore[misc]
    """Logits of the classes of each token of a response, (B, T, 3), or of its relevance, (B,)."""

    def __init__(self, backbone: Any, properties: Properties) -> None:
        super().__init__()
        self.backbone, self.properties = backbone, properties
        width = backbone.config.get_text_config().hidden_size
        self.head = nn.Linear(width, CLASSES if properties.level == "token" else 1, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequences: Sequences) -> Tensor:
        found = self.backbone(
            input_ids=sequences.ids,
            attention_mask=self._attention(sequences),
            position_ids=(sequences.attention.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        )
        written = found.last_hidden_state[:, -sequences.tokens.shape[1] :]
        if self.properties.level == "token":
            return self.head(written.float())
        last = (sequences.mask.sum(1) - 1).clamp(min=0)
        return self.head(written[torch.arange(len(last), device=last.device), last].float()).squeeze(-1)

    def _attention(self, sequences: Sequences) -> Tensor:
        if not self.properties.looks_ahead:
            return sequences.attention
        # What is not padding sees all that is not; padding sees itself, for a row without any would be no number.
        valid = sequences.attention.bool()
        sees = valid[:, None, :] & valid[:, :, None]
        sees = sees | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        blocked = torch.finfo(self.backbone.dtype).min
        return torch.zeros_like(sees, dtype=self.backbone.dtype).masked_fill(~sees, blocked)[:, None]


def new_model(policy: Policy, level: Level, *, looks_ahead: bool) -> RewardModel:
    """A model that has learnt nothing yet but the language of the policy's base."""
    backbone = AutoModel.from_pretrained(policy.model_directory, dtype=torch.float32)
    return RewardModel(backbone, Properties(level=level, looks_ahead=looks_ahead, tokenizer=_tokenizer_of(policy)))


def save_model(
    model: RewardModel, policy: Policy, destination: Path, *, version: str, card: str, **metadata: Any
) -> str:
    """Publish a reward model for responses of `policy` in one rename. Returns the SHA-256 of its manifest."""
    with TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        draft.mkdir()
        model.backbone.save_pretrained(draft, safe_serialization=True)
        save_file({name: weight.contiguous() for name, weight in model.head.state_dict().items()}, draft / _HEAD)
        (draft / _PROPERTIES).write_text(json.dumps(asdict(model.properties), indent=1) + "\n")
        (draft / "README.md").write_text(card)
        for path in draft.iterdir():
            path.chmod(0o644)
        digest = seal(draft, {"kind": KIND, "version": version, "policy": policy.version, **metadata})
        publish(draft, destination)
    return digest


def load_model(directory: Path, policy: Policy) -> RewardModel:
    """A published reward model, ready to judge responses of `policy`.

    Raises:
        ArtifactError: It is no reward model, or a file of it is missing or altered.
        PromptMismatch: It reads other tokens than the policy writes.
    """
    manifest = verify(directory)
    if manifest.get("kind") != KIND:
        raise ArtifactError(
            f"{directory} is no reward model: its manifest says {manifest.get('kind')!r}. `nextquery train reward` makes one."
        )
    properties = Properties(**json.loads((directory / _PROPERTIES).read_text()))
    if _tokenizer_of(policy) != properties.tokenizer:
        raise PromptMismatch(
            f"The reward model {manifest['version']} was trained for {manifest['policy']}, whose tokens are not those of "
            f"{policy.version}. Train one for this policy with `nextquery train reward`."
        )
    model = RewardModel(AutoModel.from_pretrained(directory, dtype=torch.float32), properties)
    model.head.load_state_dict(load_file(directory / _HEAD))
    model.eval().requires_grad_(False)
    return model


def _tokenizer_of(policy: Policy) -> str:
    return file_sha256(policy.directory / "tokenizer.json")


def scores(model: RewardModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each response the probabilities of its tokens' classes, (T, 3), or its probability to be relevant, ().

    In batches of like length; what a batch pads changes nothing.
    """
    order = sorted(range(len(responses)), key=lambda row: len(prompts[row]) + len(responses[row]))
    found: list[Tensor] = [torch.empty(0)] * len(responses)
    device = model.head.weight.device
    for at in range(0, len(order), _AT_ONCE):
        rows = order[at : at + _AT_ONCE]
        sequences = Sequences.of([prompts[row] for row in rows], [responses[row] for row in rows]).to(device)
        with torch.no_grad():
            logits = model(sequences)
        token_level = model.properties.level == "token"
        probabilities = (logits.softmax(-1) if token_level else logits.sigmoid()).cpu()
        for number, row in enumerate(rows):
            found[row] = probabilities[number, : len(responses[row])] if token_level else probabilities[number]
    return found
