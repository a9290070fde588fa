"""The smallest model that the trainer's tests train: one layer, one head."""

from trainer.pretrain import PretrainConfig

TINY = PretrainConfig(
    hidden_size=64, layers=1, heads=1, kv_heads=1, intermediate_size=64, tokens_per_step=512, compile=False, seed=3
)
